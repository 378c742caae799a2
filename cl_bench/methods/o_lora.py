"""O-LoRA: orthogonal low-rank adaptation (Wang et al., EMNLP Findings 2023, arXiv 2310.14152)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.adapter_options import AdapterOptions
from cl_bench.methods.base import Stage, Step
from cl_bench.methods.lora import LoRA

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.training.update_plan import UpdatePlan


class OLoRAOptions(AdapterOptions):
    """Options of O-LoRA; defaults are those of its port in TRACE."""

    lambda_1: Annotated[float, Field(ge=0)] = Field(
        0.5, description="strength of the orthogonality to the adapters of earlier stages"
    )
    lambda_2: Annotated[float, Field(ge=0)] = Field(
        0.0, description="strength of the pull of the stage's own matrices towards 0"
    )


class OLoRA(LoRA):
    """An adapter a stage: loss + lambda_1 sum |A_old A_new'| + lambda_2 sum (|A_new| + |B_new|).

    Earlier adapters stay beside the weights, frozen, and all of them add up. As in the official
    code they are kept as one adapter: ranks one below the other, of which a stage trains its own
    `r`, with one scale `lora_alpha / r`. The paper writes the overlap squared, its code sums the
    absolute entries, as here; both norms of the second term are plain, not squared. A_new begins
    as PEFT begins, B_new with 0. Only A is kept orthogonal. The optimiser is new in every stage
    (TRACE's port goes on with old moments on new matrices).
    """

    name = "o_lora"
    family = "adapters"
    source = "Wang 2023, arXiv 2310.14152"
    keeps = "statistics"
    options_type = OLoRAOptions
    options: OLoRAOptions

    def prepare(self, stage: Stage) -> None:
        """An adapter that is `r` ranks wider than the one the model comes with."""
        import torch
        from peft import PeftModel

        from cl_bench.methods.targets import adapted, targets_of_model
        from cl_bench.seeds import derive_seed

        options, before = self.options, {}
        if isinstance(stage.model, PeftModel):
            named = stage.model.named_parameters()
            before = {name: p.detach().clone() for name, p in named if "lora_" in name}
            stage.model = stage.model.unload()
        ranks = [value.shape[0] for name, value in before.items() if _is_a(name)]
        count = (ranks[0] if ranks else 0) // options.r + 1
        targets = targets_of_model(options, stage.model)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(stage.seed, "o_lora", stage.index))
            stage.model = adapted(stage.model, self._widened(count), targets)
        with torch.no_grad():
            for name, value in before.items():
                rows, columns = value.shape
                stage.model.get_parameter(name)[:rows, :columns] = value
        self._old = {name: value for name, value in before.items() if _is_a(name)}
        stage.notes |= {"adapters": count, "target_modules": targets}

    def plan(self, stage: Stage) -> UpdatePlan:
        """The last `r` rows of every A and columns of every B."""
        import torch

        from cl_bench.training.update_plan import Columns, Frozen, Rows, UpdatePlan

        if not self._old:
            return super().plan(stage)
        own = {}
        for name, parameter in stage.model.named_parameters():
            if "lora_" in name:
                rank = parameter.shape[0 if _is_a(name) else 1]
                index = torch.arange(rank - self.options.r, rank)
                own[name] = Rows(index) if _is_a(name) else Columns(index)
        return UpdatePlan(own, default=Frozen())

    def trains(self, shapes: Shapes) -> Trained:
        """What LoRA trains, beside the adapters of earlier stages in one that is wider."""
        from dataclasses import replace

        own, index = super().trains(shapes), 8
        if not shapes.earlier:
            return own
        wide = LoRA(self._widened(shapes.earlier + 1)).trains(shapes)
        frozen = wide.forward_flops - own.forward_flops
        return replace(
            own,
            weights=wide.weights,
            checkpoint=wide.checkpoint,
            optimiser=3 * own.gradients + index * self.options.r * len(own.adapters),
            forward_flops=wide.forward_flops,
            flops_per_token=own.flops_per_token + 2 * frozen,
            inputs_kept=wide.inputs_kept,
            adds=wide.adds,
        )

    def _widened(self, count: int) -> OLoRAOptions:
        """Options of PEFT for `count` adapters as one, with the scale of each."""
        r, alpha = count * self.options.r, count * self.options.lora_alpha
        return self.options.model_copy(update={"r": r, "lora_alpha": alpha})

    def before_step(self, step: Step) -> None:
        """The gradients of both terms, once an update."""
        if (self._old and self.options.lambda_1) or self.options.lambda_2:
            step.add(self._terms)

    def _terms(self, masters: Mapping[str, Tensor]) -> Tensor:
        import torch

        overlaps = [(old.to(masters[n]) @ masters[n].T).abs().sum() for n, old in self._old.items()]
        sizes = [torch.linalg.vector_norm(master) for master in masters.values()]
        overlap = torch.stack(overlaps).sum() if overlaps else 0.0
        return self.options.lambda_1 * overlap + self.options.lambda_2 * torch.stack(sizes).sum()


def _is_a(name: str) -> bool:
    """Whether an adapter's matrix is the first one, [r, Din]; the second is [Dout, r]."""
    return "lora_A" in name or "lora_embedding_A" in name

"""DAS: soft masks on the updates of important units (Ke et al., ICLR 2023, arXiv 2302.03241)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Batch, Method, Options, Stage, State, Step
from cl_bench.seeds import derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.importance.units import Factors
    from cl_bench.methods.spec import StageSpec

MASKED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class DASOptions(Options):
    """Options of DAS."""

    strength: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="share of an important unit's update that is held back; 0: fine-tuning"
    )
    dropout: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="of the two passes whose distance says what general knowledge needs"
    )
    score_examples: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of a stage that importance is taken from; all by default"
    )


class DAS(Method[DASOptions]):
    """Every update of a unit is taken to the share `1 - strength * I`, I in 0 to 1.

    Units are attention heads, inner neurons of the MLP and its outputs. Importance for one example
    is |dL/dg|, g a factor of 1 on the unit's output; over the examples it is averaged, normalised
    in each layer to |tanh(z)|, and I is the largest of all stages so far. Before the first stage L
    is the KL between two passes of the base model with dropout, a proxy for what it knows; after
    every stage it is that stage's loss. Heads stand for rows of q, k, v (a shared key or value for
    the largest of its heads) and columns of o, inner neurons for rows of gate and up, outputs for
    rows of down; the rest trains fully.

    Readings: L is of answer tokens of the stage's examples. Dropout, which Llama and its relatives
    do not have, is put where BERT's is, on what attention and MLP add. The update is scaled, not
    the gradient as in the paper, because AdamW divides a constant factor of the gradient out again.
    The official code adds up signed derivatives, seems to make its two passes without dropout, and
    masks q, k and v by column. The contrastive loss, which is of sentence vectors, is left out.
    """

    name = "das"
    family = "masks"
    source = "Ke 2023, arXiv 2302.03241"
    keeps = "statistics"

    def __init__(self, options: DASOptions | None = None) -> None:
        super().__init__(options)
        self.importance: dict[str, Tensor] = {}

    def trains(self, shapes: Shapes) -> Trained | None:
        """Everything. Raises UserError for a model without Llama's layers."""
        ends = {module: _of(shapes, module) for module in MASKED}
        kinds = {len(shape) for end in ends.values() for shape in end}
        counts = {len(end) for end in ends.values()}
        if kinds != {2} or len(counts) > 1 or len(set(ends["down_proj"])) > 1:
            raise UserError(
                "das: needs a model whose layers all have attention that ends in o_proj and an MLP "
                "of gate_proj, up_proj and down_proj, as Llama and Qwen2 have"
            )
        return None

    def adds(self, shapes: Shapes) -> Cost:
        """Masters before an update, two passes of importance, and importance as state."""
        from cl_bench.costs.added import Cost, Disk, Pass, Work, kept
        from cl_bench.costs.kept_selection import score_bytes

        sides = _of(shapes, "down_proj")
        general = Pass(8 * shapes.products, self.options.score_examples)
        of_stage = Pass(4 * shapes.products, self.options.score_examples)
        ends = tuple(f".{module}.weight" for module in MASKED)
        scores = score_bytes(shapes, "rows", lambda name: name.endswith(ends))
        return (
            kept(shapes.entry_bytes * sum(math.prod(shape) for shape in _of(shapes, *MASKED)))
            + kept(8 * sum(sum(shape) for shape in sides), saved=True)
            + Cost(work=Work(passes=(general, of_stage)), disk=Disk(selection=scores))
        )

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Adapters have no units, norms are none."""
        if stage.adapters:
            yield "it masks units of the model's own layers, and the stage trains an adapter"
        if any(part.method.name == "layernorm" for part in stage.parts):
            yield "compose: it masks rows of linear layers, and layernorm trains none: use one"

    def prepare(self, stage: Stage) -> None:
        """Importance for general knowledge, in the first stage."""
        from cl_bench.importance.dropout import dropout_distance
        from cl_bench.methods.masks import PartialSteps

        self._steps, self._stage = PartialSteps(), stage
        if stage.first and self.options.strength:

            def seed(example: int, number: int) -> int:
                return derive_seed(stage.seed, stage.index, "das", example, number)

            def distance(batch: Batch, factors: Factors) -> Tensor:
                return dropout_distance(stage.model, batch, factors, self.options.dropout, seed)

            self._remember(stage, distance)

    def before_step(self, step: Step) -> None:
        """The shares, when what is trained is known; then the weights before the update."""
        from cl_bench.importance.units import shares

        if not self._steps.shares and self.importance:
            held = {k: self.options.strength * v for k, v in self.importance.items()}
            parameters = dict(self._stage.model.named_parameters())
            self._steps.shares = {
                name: step.compact(name, share.expand(parameters[name].shape))
                for name, share in shares(self._stage.model, held).items()
                if name in step.masters
            }
            self._stage.notes["mean_share_of_steps"] = round(self._steps.mean(), 6)
        self._steps.begin(step.masters)

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """Goes back by what is held back."""
        return self._steps.end(masters)

    def finish(self, stage: Stage) -> None:
        """Importance for the stage that was trained, kept as scores of rows and columns."""
        from cl_bench.importance.units import normalised, shares
        from cl_bench.training.loss import answer_loss

        if self.options.strength:
            parts = self._remember(stage, lambda batch, _: answer_loss(stage.model, batch, 1.0)[0])
            scores = []
            for part in [_sum(parts), *parts] if len(parts) > 1 else parts:
                own = shares(stage.model, {kind: normalised(value) for kind, value in part.items()})
                scores.append({name: 1 - share for name, share in own.items()})
            stage.keep_scores(*scores)

    def _remember(
        self, stage: Stage, loss: Callable[[Batch, Factors], Tensor]
    ) -> list[dict[str, Tensor]]:
        """I <- max(I, |tanh(z)|), over the stage's examples; returns the sums over both halves."""
        import torch

        from cl_bench.importance.units import importances, normalised
        from cl_bench.methods.estimates import in_halves

        count = self.options.score_examples or len(stage.examples)
        halves = in_halves(stage.sample(count, "das"), stage.generator("das halves"))
        parts = [
            importances(stage.model, stage.batches(half), loss, stage.remaining) for half in halves
        ]
        for part in parts:
            for value in part.values():
                stage.all_reduce(value)
        for kind, value in _sum(parts).items():
            own = normalised(value)
            old = self.importance.get(kind)
            self.importance[kind] = own if old is None else torch.maximum(old.to(own), own)
        return parts

    def state(self) -> State:
        """The largest importance so far, [layers, units] for each kind."""
        return State({kind: value.cpu() for kind, value in self.importance.items()})

    def load_state(self, state: State) -> None:
        """That of all stages so far."""
        self.importance = dict(state.tensors)


def _sum(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        kind: sum((part[kind] for part in parts[1:]), value) for kind, value in parts[0].items()
    }


def _of(shapes: Shapes, *modules: str) -> list[tuple[int, ...]]:
    """Shapes of the weights of modules with these names."""
    ends = tuple(f".{module}.weight" for module in modules)
    return [shape for name, shape in shapes.parameters.items() if name.endswith(ends)]

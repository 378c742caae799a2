"""MIGU: magnitude-based gradient updating (Du et al., EMNLP Findings 2024, arXiv 2406.17245)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cl_bench.errors import RunError
from cl_bench.methods.base import Method, Options, Stage, Step
from cl_bench.models.layouts import Layout, is_conv1d, layouts, patterns, readable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.methods.spec import StageSpec


_AT_ONCE = 256
"""Positions of which the head's outputs exist at once."""


class MIGUOptions(Options):
    """Options of MIGU."""

    threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.7, description="share of the rows of each linear layer whose gradient is dropped"
    )
    mask_first_task: bool = Field(False, description="the official code trains the first fully")
    lm_head: Literal["all", "answer", "off"] = Field(
        "answer",
        description="the head's outputs count at all positions (official; they are computed once "
        "more) or at answers; off: it is not masked",
    )
    count_padding: bool = Field(
        True, description="false: outputs at padding do not count (the official code counts them)"
    )


class MIGU(Method[MIGUOptions]):
    """At every update, drop the gradient of the output rows with the smallest summed |output|.

    As in the official code: forward hooks on every linear layer (the head too; GPT-2's Conv1D; each
    expert of fused ones, whose outputs are computed once more for it) sum the absolute
    outputs over batch and positions, prompt and padding included, over the micro-batches of an
    update; rows at or above the `threshold`-quantile keep their gradient; embeddings, norms and
    biases are trained fully, and the first task is plain fine-tuning. One difference: the head
    is computed at answer positions only, so by default only those count for it. A tied head shares
    its mask with the embeddings (as there). Momentum still moves a masked row (methods note 0.3).

    Behind `lora` in a composition the layers are the adapters' two, and rows of both factors are
    masked, each by its own output. The official code means to do that and does not: its LoRA path
    asks for a method of another name.
    """

    name = "migu"
    family = "masks"
    splits = True
    source = "Du 2024, arXiv 2406.17245"

    def __init__(self, options: MIGUOptions | None = None) -> None:
        super().__init__(options)
        self._magnitude: dict[str, Tensor] = {}
        self._seen_in: list[dict[str, Tensor]] = []
        """Magnitudes summed over all updates, and over every other one."""
        self._hooks: list[Any] = []
        self._all_reduce: Callable[[Tensor], None] | None = None
        self._device: torch.device | None = None
        self._layouts: dict[str, Layout] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._seen: set[str] = set()
        self._padded: Tensor | None = None

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """An adapter that is put on after the layers were looked at, and no rows to mask."""
        for part in stage.parts:
            if part.method.name in ("layernorm", "osft"):
                yield (
                    f"compose: it masks rows of linear layers, and {part.method.name} trains none: "
                    "use one of the two"
                )
        classes = [part.method for part in stage.parts]
        for cls in classes[next(i for i, c in enumerate(classes) if issubclass(c, MIGU)) + 1 :]:
            if cls.adapters:
                yield (
                    f"compose: {cls.name} comes after migu, which would not see its adapter: list "
                    f"{cls.name} before migu"
                )

    def adds(self, shapes: Shapes) -> Cost:
        """A float32 magnitude a row, and two sums over updates in float64, which are kept.

        It saves nothing: gradients exist before they are masked.

        Rows of untied token embeddings, which have none, are counted too. Experts are computed once
        more in forward, and so is the head where all positions count.
        """
        from cl_bench.costs.added import Cost, Disk, Memory, Work
        from cl_bench.costs.kept_selection import score_bytes

        rows = again = 0
        unreached, watched = [], set()
        for name, shape in shapes.parameters.items():
            layout = shapes.layout(name)
            if layout.linear or (layout.stack and not layout.hidden):
                if layout.inputs:
                    rows += math.prod(layout.score_shape(shape, "rows"))
                    watched.add(name)
                again += 2 * shapes.active(name, math.prod(shape)) if layout.stack else 0
            elif len(shape) > 1:
                unreached.append(name)
        if self.options.lm_head == "all":
            again += max(
                (2 * math.prod(shapes.parameters[n]) for n in shapes.embeddings), default=0
            )
        remarks = (f"not masked, trained in full: {', '.join(patterns(unreached))}",)
        return Cost(
            Memory(held=(4 + 2 * 8) * rows, watched=True),
            Work(per_token=again),
            Disk(
                selection=0
                if shapes.backbone
                else score_bytes(shapes, "rows", watched.__contains__)
            ),
            remarks=remarks if unreached else (),
        )

    def prepare(self, stage: Stage) -> None:
        """Watch the outputs of every linear layer and of every expert."""
        from torch import nn

        from cl_bench.importance.experts import watch_experts

        if stage.first and not self.options.mask_first_task:
            return
        self._all_reduce, self._seen_in = stage.all_reduce, [{}, {}]
        self._device = stage.device
        self._layouts = layouts(stage.model)
        names = {id(parameter): name for name, parameter in stage.model.named_parameters()}
        head: Any = stage.model.get_output_embeddings()  # type: ignore[operator]
        if not self.options.count_padding:
            see = self._watcher_of_padding()
            self._hooks.append(stage.model.register_forward_pre_hook(see, with_kwargs=True))
        for module in stage.model.modules():
            own = dict(module.named_parameters(recurse=False))
            if isinstance(module, nn.Linear) or is_conv1d(module):
                name = names[id(own["weight"])]
                if module is head and self.options.lm_head != "answer":
                    if self.options.lm_head == "all":
                        self._begin(name, own["weight"])
                        before = self._watcher_of_head(name)
                        self._hooks.append(module.register_forward_pre_hook(before))
                elif self._layouts[name].linear:
                    self._begin(name, own["weight"])
                    watcher = self._watcher(name, at_answers=module is head)
                    self._hooks.append(module.register_forward_hook(watcher))
            elif readable(module):
                stacks = {key: p for key, p in own.items() if p.dim() == 3}
                watched = {key: self._begin(names[id(p)], p) for key, p in stacks.items()}
                self._seen.update(names[id(p)] for p in stacks.values())
                self._hooks.append(watch_experts(module, watched, self._counted))

    def _begin(self, name: str, weight: Tensor) -> Tensor:
        """Zeros for the magnitudes of a weight's output units."""
        import torch

        shape = self._layouts[name].score_shape(tuple(weight.shape), "rows")
        self._shapes[name] = tuple(weight.shape)
        self._magnitude[name] = torch.zeros(shape, dtype=torch.float32, device=self._device)
        for total in self._seen_in:
            total[name] = torch.zeros(shape, dtype=torch.float64, device=self._device)
        return self._magnitude[name]

    def _unreached(self, model: Any) -> list[str]:
        """Weights of more than one dimension whose outputs nobody sees, embeddings left out."""
        from torch import nn

        embeddings = {
            id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
        }
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.dim() > 1
            and name not in self._seen
            and not name.endswith("bias")
            and id(parameter) not in embeddings
        ]

    def _watcher(self, name: str, at_answers: bool) -> Callable[[Any, Any, Tensor], None]:
        import torch

        from cl_bench.training.hooks import only_in_training

        @only_in_training
        def watch(module: Any, inputs: Any, output: Tensor) -> None:
            if module.training:
                self._seen.add(name)
                rows = output.detach().abs().flatten(0, -2)
                counted = None if at_answers else self._counted(len(rows), name)
                rows = rows if counted is None else rows[counted]
                self._magnitude[name].add_(rows.sum(0, dtype=torch.float32))

        return watch

    def _watcher_of_head(self, name: str) -> Callable[[Any, Any], None]:
        """Before the head is given the answers alone: its outputs at all positions."""
        import torch

        from cl_bench.training.cpu import matmul
        from cl_bench.training.hooks import only_in_training

        @only_in_training
        def watch(module: Any, inputs: tuple[Tensor, ...]) -> None:
            if not module.training:
                return
            self._seen.add(name)
            with torch.no_grad():
                hidden = inputs[0].detach().flatten(0, -2)
                counted = self._counted(len(hidden), name)
                hidden = hidden if counted is None else hidden[counted]
                for begin in range(0, len(hidden), _AT_ONCE):
                    some = hidden[begin : begin + _AT_ONCE]
                    out = matmul.linear(some, module.weight, module.bias)
                    self._magnitude[name].add_(out.abs().sum(0, dtype=torch.float32))

        return watch

    def _watcher_of_padding(self) -> Callable[[Any, Any, dict[str, Any]], None]:
        """Before the model sees a batch: which of its positions are padding, [B * T]."""
        from cl_bench.training.hooks import only_in_training

        @only_in_training
        def watch(module: Any, args: Any, inputs: dict[str, Any]) -> None:
            if module.training:
                mask = inputs.get("attention_mask")
                self._padded = None if mask is None else ~mask.bool().flatten()

        return watch

    def _counted(self, tokens: int, name: str = "experts") -> Tensor | None:
        """Which of a layer's tokens count; None: all of them."""
        if self._padded is None:
            return None
        if tokens != self._padded.numel():
            raise RunError(
                f"migu: count_padding: false: {name} has {tokens} outputs for a batch of "
                f"{self._padded.numel()} positions, so it is not known which are padding; give "
                "count_padding: true"
            )
        return ~self._padded

    def begin_again(self) -> bool:
        """The magnitudes of an update that was not done do not count."""
        for magnitude in self._magnitude.values():
            magnitude.zero_()
        return True

    def before_step(self, step: Step) -> None:
        """Zero the gradient rows below the quantile, then begin summing anew."""
        import torch

        for name, magnitude in self._magnitude.items():
            if self._all_reduce is not None:
                self._all_reduce(magnitude)
            for total in self._seen_in[: 1 + step.number % 2]:
                total[name] += magnitude
            if name in step.grads:
                layout, threshold = self._layouts[name], self.options.threshold
                own = magnitude if layout.stack else magnitude.unsqueeze(0)
                keep = torch.stack([keep_mask(member, threshold) for member in own])
                dropped = ~(keep if layout.stack else keep[0])
                dense = layout.spread(dropped, self._shapes[name], "rows")
                step.grads[name].masked_fill_(step.compact(name, dense), 0.0)
            magnitude.zero_()

    def finish(self, stage: Stage) -> None:
        """Stop watching: scoring must not be slowed or counted. Says what was not masked."""
        if self._seen_in:
            stage.keep_scores(*self._seen_in)
        if self._hooks and (unreached := self._unreached(stage.model)):
            stage.notes["not_masked"] = patterns(unreached)
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._magnitude, self._seen_in, self._all_reduce = [], {}, [], None
        self._layouts, self._shapes, self._seen, self._padded = {}, {}, set(), None


def keep_mask(magnitude: Tensor, threshold: float) -> Tensor:
    """Rows [Dout] whose summed |output| is at or above the `threshold`-quantile."""
    from cl_bench.importance.threshold import quantile

    return magnitude >= quantile(magnitude, threshold)

"""MIGU: magnitude-based gradient updating (Du et al., EMNLP Findings 2024, arXiv 2406.17245)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage, Step
from cl_bench.models.layouts import Layout, is_conv1d, layouts, patterns, readable

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes


class MIGUOptions(Options):
    """Options of MIGU."""

    threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.7, description="share of the rows of each linear layer whose gradient is dropped"
    )
    mask_first_task: bool = Field(False, description="the official code trains the first fully")


class MIGU(Method[MIGUOptions]):
    """At every update, drop the gradient of the output rows with the smallest summed |output|.

    As in the official code: forward hooks on every linear layer (the head too; GPT-2's Conv1D; each
    expert of fused ones, whose outputs are computed once more for it) sum the absolute
    outputs over batch and positions, prompt and padding included, over the micro-batches of an
    update; rows at or above the `threshold`-quantile keep their gradient; embeddings, norms and
    biases are trained fully, and the first task is plain fine-tuning. Two differences: the head
    is computed at answer positions only, so only those count for it, and a tied head shares its
    mask with the embeddings (as there). Momentum still moves a masked row (methods note 0.3).
    """

    name = "migu"
    family = "masks"
    source = "Du 2024, arXiv 2406.17245"

    def __init__(self, options: MIGUOptions | None = None) -> None:
        super().__init__(options)
        self._magnitude: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._all_reduce: Callable[[Tensor], None] | None = None
        self._layouts: dict[str, Layout] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._seen: set[str] = set()

    def adds(self, shapes: Shapes) -> Cost:
        """A float32 magnitude a row; it saves nothing: gradients exist before they are masked.

        Rows of untied token embeddings, which have none, are counted too. Experts are computed once
        more in forward.
        """
        from cl_bench.costs.added import Cost, Memory, Work

        rows = again = 0
        unreached = []
        for name, shape in shapes.parameters.items():
            layout = shapes.layout(name)
            if layout.linear or (layout.stack and not layout.hidden):
                rows += math.prod(layout.score_shape(shape, "rows")) if layout.inputs else 0
                again += 2 * shapes.active(name, math.prod(shape)) if layout.stack else 0
            elif len(shape) > 1:
                unreached.append(name)
        remarks = (f"not masked, trained in full: {', '.join(patterns(unreached))}",)
        return Cost(
            Memory(held=4 * rows, watched=True),
            Work(per_token=again),
            remarks=remarks if unreached else (),
        )

    def prepare(self, stage: Stage) -> None:
        """Watch the outputs of every linear layer and of every expert."""
        from torch import nn

        from cl_bench.importance.experts import watch_experts

        if stage.first and not self.options.mask_first_task:
            return
        self._all_reduce = stage.all_reduce
        self._layouts = layouts(stage.model)
        names = {id(parameter): name for name, parameter in stage.model.named_parameters()}
        for module in stage.model.modules():
            own = dict(module.named_parameters(recurse=False))
            if isinstance(module, nn.Linear) or is_conv1d(module):
                name = names[id(own["weight"])]
                if self._layouts[name].linear:
                    self._begin(name, own["weight"])
                    self._hooks.append(module.register_forward_hook(self._watcher(name)))
            elif readable(module):
                stacks = {key: p for key, p in own.items() if p.dim() == 3}
                watched = {key: self._begin(names[id(p)], p) for key, p in stacks.items()}
                self._seen.update(names[id(p)] for p in stacks.values())
                self._hooks.append(watch_experts(module, watched))

    def _begin(self, name: str, weight: Tensor) -> Tensor:
        """Zeros for the magnitudes of a weight's output units."""
        import torch

        shape = self._layouts[name].score_shape(tuple(weight.shape), "rows")
        self._shapes[name] = tuple(weight.shape)
        self._magnitude[name] = weight.new_zeros(shape, dtype=torch.float32)
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

    def _watcher(self, name: str) -> Callable[[Any, Any, Tensor], None]:
        import torch

        from cl_bench.training.hooks import only_in_training

        @only_in_training
        def watch(module: Any, inputs: Any, output: Tensor) -> None:
            if module.training:
                self._seen.add(name)
                size = output.detach().abs().flatten(0, -2).sum(0, dtype=torch.float32)
                self._magnitude[name].add_(size)

        return watch

    def before_step(self, step: Step) -> None:
        """Zero the gradient rows below the quantile, then begin summing anew."""
        import torch

        for name, magnitude in self._magnitude.items():
            if self._all_reduce is not None:
                self._all_reduce(magnitude)
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
        if self._hooks and (unreached := self._unreached(stage.model)):
            stage.notes["not_masked"] = patterns(unreached)
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._magnitude, self._all_reduce = [], {}, None
        self._layouts, self._shapes, self._seen = {}, {}, set()


def keep_mask(magnitude: Tensor, threshold: float) -> Tensor:
    """Rows [Dout] whose summed |output| is at or above the `threshold`-quantile."""
    from cl_bench.importance.threshold import quantile

    return magnitude >= quantile(magnitude, threshold)

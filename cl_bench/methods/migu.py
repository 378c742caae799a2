"""MIGU: magnitude-based gradient updating (Du et al., EMNLP Findings 2024, arXiv 2406.17245)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.training.memory import Cost
    from cl_bench.training.shapes import Shapes


class MIGUOptions(Options):
    """Options of MIGU."""

    threshold: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.7, description="share of the rows of each linear layer whose gradient is dropped"
    )
    mask_first_task: bool = Field(False, description="the official code trains the first fully")


class MIGU(Method):
    """At every update, drop the gradient of the output rows with the smallest summed |output|.

    As in the official code: forward hooks on every linear layer (the head too) sum the absolute
    outputs over batch and positions, prompt and padding included, over the micro-batches of an
    update; rows at or above the `threshold`-quantile keep their gradient; embeddings, norms and
    biases are trained fully, and the first task is plain fine-tuning. Two differences: the head
    is computed at answer positions only, so only those count for it, and a tied head shares its
    mask with the embeddings (as there). Momentum still moves a masked row (methods note 0.3).
    """

    name = "migu"
    options_type = MIGUOptions

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._magnitude: dict[str, Tensor] = {}
        self._hooks: list[Any] = []
        self._all_reduce: Callable[[Tensor], None] | None = None

    def cost(self, shapes: Shapes) -> Cost:
        """Full training and a float32 magnitude a row: every gradient exists before it is masked.

        Rows of untied token embeddings, which have none, are counted too.
        """
        from dataclasses import replace

        from cl_bench.training.memory import full_cost

        rows = sum(shape[0] for shape in shapes.parameters.values() if len(shape) == 2)
        return replace(full_cost(shapes).with_extra(4 * rows), watched=True)

    def prepare(self, stage: Stage) -> None:
        """Watch the outputs of every linear layer."""
        import torch
        from torch import nn

        if stage.first and not self.options.mask_first_task:
            return
        self._all_reduce = stage.all_reduce
        names = {id(parameter): name for name, parameter in stage.model.named_parameters()}
        for module in stage.model.modules():
            if isinstance(module, nn.Linear):
                name = names[id(module.weight)]
                self._magnitude[name] = module.weight.new_zeros(
                    module.out_features, dtype=torch.float32
                )
                self._hooks.append(module.register_forward_hook(self._watcher(name)))

    def _watcher(self, name: str) -> Callable[[Any, Any, Tensor], None]:
        import torch

        from cl_bench.training.hooks import only_in_training

        @only_in_training
        def watch(module: Any, inputs: Any, output: Tensor) -> None:
            if module.training:
                size = output.detach().abs().flatten(0, -2).sum(0, dtype=torch.float32)
                self._magnitude[name].add_(size)

        return watch

    def before_step(self, step: Step) -> None:
        """Zero the gradient rows below the quantile, then begin summing anew."""
        for name, magnitude in self._magnitude.items():
            if self._all_reduce is not None:
                self._all_reduce(magnitude)
            if name in step.grads:
                step.grads[name][~keep_mask(magnitude, self.options.threshold)] = 0.0
            magnitude.zero_()

    def finish(self, stage: Stage) -> None:
        """Stop watching: scoring must not be slowed or counted."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._magnitude, self._all_reduce = [], {}, None


def keep_mask(magnitude: Tensor, threshold: float) -> Tensor:
    """Rows [Dout] whose summed |output| is at or above the `threshold`-quantile."""
    from cl_bench.importance.threshold import quantile

    return magnitude >= quantile(magnitude, threshold)

"""Averaged weights: an exponential moving average over the updates of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage, Step
from cl_bench.methods.merging import Merging, in_place_of

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.methods.spec import StageSpec


class EMAOptions(Options):
    """Options of averaged weights."""

    decay: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.99, description="share of the old average at every update; 0 is plain training"
    )
    use: Literal["training", "scoring"] = Field(
        "scoring",
        alias="for",
        description="what the average is for: it is only scored and training goes on from the "
        "weights themselves, or the next stage goes on from it",
    )


class EMA(Method[EMAOptions]):
    """After every update `average <- decay * average + (1 - decay) * weights`.

    The average begins with the weights that the stage begins with. It is of what is trained: whole
    parameters from their masters, parameters of which a part is trained from the model's weights
    (rounded to its dtype). Beside LoRA it is an average of the adapter's matrices.
    """

    name = "ema"
    family = "merges"
    source = "averaged weights over updates"

    def __init__(self, options: EMAOptions | None = None) -> None:
        super().__init__(options)
        self._average: dict[str, Tensor] = {}

    def adds(self, shapes: Shapes) -> Cost:
        """An average of every entry in the precision of the masters."""
        from cl_bench.costs.added import kept

        return kept(shapes.entry_bytes * shapes.numel)

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """What is merged before the average is written, and phases that begin anew."""
        place = next(i for i, one in enumerate(stage.parts) if issubclass(one.method, EMA))
        for i, part in enumerate(stage.parts):
            name, options = part.method.name, part.options
            if name in ("branch_merge", "grads"):
                yield (
                    f"compose: {name} goes back to the stage's first weights, and the average "
                    "would hold the updates from before: use one of the two"
                )
            merges = issubclass(part.method, Merging) and getattr(options, "use", "") == "training"
            if merges and i < place and self.options.use == "training":
                yield (
                    f"compose: the average is written over what {name} has merged: list ema before "
                    f"{name}"
                )

    def prepare(self, stage: Stage) -> None:
        """An adapter may still come; the weights are looked up when something is trained."""
        self._stage = stage

    def before_step(self, step: Step) -> None:
        """The first update of a parameter: its average is what it was before."""
        parameters = self._parameters()
        for name, master in step.masters.items():
            if name not in self._average:
                whole = parameters[name].detach()
                source = master if master.shape == whole.shape else whole
                self._average[name] = source.detach().to(master.dtype, copy=True)

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """The average moves; the masters do not."""
        parameters, share = self._parameters(), 1 - self.options.decay
        for name, master in masters.items():
            average = self._average[name]
            whole = master if master.shape == average.shape else parameters[name].detach()
            average.lerp_(whole.to(average.dtype), share)
        return False

    def finish(self, stage: Stage) -> None:
        """With `for: training` the stage ends with the average."""
        if self.options.use == "training":
            stage.load(self._average)

    @property
    def scores_another(self) -> bool:
        """With `for: scoring`."""
        return self.options.use == "scoring"

    @contextmanager
    def scored(self, stage: Stage) -> Iterator[Any]:
        """With `for: scoring` the average, for as long as it is scored."""
        if self.options.use == "training":
            yield stage.model
            return
        parameters = self._parameters()
        own = {name: parameters[name].detach().to("cpu", copy=True) for name in self._average}
        with in_place_of(stage, own, self._average):
            yield stage.model

    def _parameters(self) -> dict[str, Tensor]:
        return dict(self._stage.model.named_parameters())

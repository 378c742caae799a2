"""Learning without forgetting (Li and Hoiem, ECCV 2016, arXiv 1606.09282)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from cl_bench.methods.base import Batch, Method, Options, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.training.loss import AnswerOutputs


class LwFOptions(Options):
    """Options of LwF."""

    strength: Annotated[float, Field(ge=0)] = Field(
        1.0, alias="lambda", description="weight of the distance to the model before the stage"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(
        2.0, description="logits of both models are divided by it"
    )


class LwF(Method[LwFOptions]):
    """loss + lambda * T^2 * KL(softmax(z_old / T) || softmax(z / T)), a mean over answer tokens.

    z_old are the logits of the model that the stage began with, on the new examples: no old data is
    needed. The paper minimises the cross-entropy of the same two distributions, whose gradient is
    that of the KL; T^2 keeps the gradient's size (Hinton et al. 2015). The first stage is plain
    fine-tuning. TRACE's code has the KL turned round and without T^2, over prompts and padding as
    well, and finds stored logits by the number of their batch; none of that is repeated.
    """

    name = "lwf"
    family = "distillation"
    source = "Li 2016, arXiv 1606.09282"
    keeps = "weights"

    def adds(self, shapes: Shapes) -> Cost:
        """A copy of the model, which sees every token too."""
        from cl_bench.costs.added import teacher

        return teacher(shapes)

    def prepare(self, stage: Stage) -> None:
        """The teacher: the model as it is, if any earlier stage trained it."""
        from cl_bench.methods.teacher import model_before

        self._teacher: Any = None
        if self.options.strength and not stage.first:
            self._teacher = model_before(stage)

    def begin_again(self) -> bool:
        """Nothing is gathered over an update."""
        return True

    def penalty(self, batch: Batch, outputs: AnswerOutputs) -> Tensor | None:
        """lambda * T^2 * KL(teacher || model)."""
        if self._teacher is None:
            return None
        from cl_bench.methods.teacher import logits_of
        from cl_bench.training.distillation import summed_kl

        hot = self.options.temperature
        distance = summed_kl(outputs.logits, logits_of(self._teacher, batch), hot)
        return distance * (self.options.strength * hot**2 / outputs.labels.numel())

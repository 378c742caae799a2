"""Fine-tuning with a KL term to the base model, as fine-tuning from rewards has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cl_bench.methods.base import Batch, Method, Options, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.training.loss import AnswerOutputs


class KLBaseOptions(Options):
    """Options of kl_base."""

    strength: Annotated[float, Field(ge=0)] = Field(
        0.1, alias="beta", description="weight of the divergence from the base model"
    )
    direction: Literal["reverse", "forward"] = Field(
        "reverse",
        description="reverse: KL(model || base), as in RLHF; forward: KL(base || model)",
    )


class KLBase(Method[KLBaseOptions]):
    """loss + beta * KL(p || p_base), a mean over answer tokens.

    p and p_base are the next-token distributions of the model and of the base model, before any
    stage, at the answer tokens of the stage's examples (Ziegler et al. 2019 put the same divergence
    into the reward, on the model's own answers: here the given answers are the contexts, and the
    sum over the vocabulary is exact, not sampled). Unlike `lwf` it has the base model for a teacher
    in every stage, the first too, so that General is what it protects.
    """

    name = "kl_base"
    family = "distillation"
    source = "Ziegler 2019, arXiv 1909.08593"
    keeps = "nothing"

    def adds(self, shapes: Shapes) -> Cost:
        """A copy of the base model, which sees every token too."""
        from cl_bench.costs.added import teacher

        return teacher(shapes)

    def prepare(self, stage: Stage) -> None:
        """The teacher."""
        from cl_bench.methods.teacher import base_model

        self._teacher: Any = base_model(stage) if self.options.strength else None

    def begin_again(self) -> bool:
        """Nothing is gathered over an update."""
        return True

    def penalty(self, batch: Batch, outputs: AnswerOutputs) -> Tensor | None:
        """beta * KL."""
        if self._teacher is None:
            return None
        from cl_bench.methods.teacher import logits_of
        from cl_bench.training.distillation import summed_kl

        reverse = self.options.direction == "reverse"
        base = logits_of(self._teacher, batch)
        distance = summed_kl(outputs.logits, base, reverse=reverse)
        return distance * (self.options.strength / outputs.labels.numel())

"""A-GEM: averaged gradient episodic memory (Chaudhry et al. 2019, arXiv 1812.00420)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage, Step

if TYPE_CHECKING:
    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes


class AGEMOptions(Options):
    """Options of A-GEM."""

    memory: Annotated[int, Field(ge=0)] = Field(
        256, description="examples of each earlier task that are kept; 0 is plain fine-tuning"
    )
    draw: Annotated[int, Field(gt=0)] | None = Field(
        None, description="examples of the memory that an update looks at; as many as a batch has"
    )


class AGEM(Method[AGEMOptions]):
    """Where <g, m> < 0: `g -= <g, m> / <m, m> m`, m the gradient on a batch of the memory.

    The memory is that of all earlier tasks together; at every update a batch is drawn from it. The
    inner products are over all trained parameters at once, before clipping. The paper takes steps
    of SGD; AdamW, as here, does not keep the angle that the projection has made. Without earlier
    tasks it is plain fine-tuning.
    """

    name = "agem"
    family = "projections"
    source = "Chaudhry 2019, arXiv 1812.00420"
    keeps = "examples"

    def adds(self, shapes: Shapes) -> Cost:
        """The gradient on a batch of the memory at every update, of the first stage too."""
        from cl_bench.costs.added import Cost, another_gradient

        return another_gradient(self.options.draw) if self.options.memory else Cost()

    def prepare(self, stage: Stage) -> None:
        """The memory of all earlier tasks, and the generator that batches are drawn with."""
        from cl_bench.methods.memory import memories

        self._stage, self._draws = stage, stage.generator("agem")
        self._memory = [e for some in memories(stage, "agem", self.options.memory) for e in some]
        if self._memory:
            stage.notes["projected"] = 0

    def before_step(self, step: Step) -> None:
        """The projection, where the memory opposes the update."""
        import torch

        from cl_bench.methods.memory import inner

        if not self._memory:
            return
        count = self.options.draw or self._stage.train.batch_size
        order = torch.randperm(len(self._memory), generator=self._draws)[:count]
        batches = self._stage.batches([self._memory[i] for i in order.tolist()])
        past = step.gradient_of(batches)
        product = inner(step.grads, past)
        if product < 0:
            size = inner(past, past)
            for name, gradient in past.items():
                step.grads[name].sub_(gradient, alpha=product / size)
            self._stage.notes["projected"] += 1

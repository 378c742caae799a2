"""Training the norms alone, the baseline of PIECE's authors (arXiv 2511.15375)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Stage

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.training.update_plan import UpdatePlan


class LayerNorm(Method):
    """The weights and biases of all norms are trained, everything else is frozen.

    The official code takes every parameter with "norm" in its name; here the module that holds it
    is called so (norm, layernorm, ln_1, ...) and it is a vector, so that no matrix inside of a
    block called after its norms is trained (DBRX). The authors train at the rate of full
    fine-tuning, 1e-5; so few weights can take a much higher one.
    """

    name = "layernorm"
    family = "parts"
    source = "PIECE 2025, arXiv 2511.15375"

    def plan(self, stage: Stage) -> UpdatePlan:
        """All norms fully."""
        from cl_bench.models.places import is_norm
        from cl_bench.training.update_plan import Frozen, Full, UpdatePlan

        named = stage.model.named_parameters()
        norms = [name for name, p in named if is_norm(name, tuple(p.shape))]
        return UpdatePlan({name: Full() for name in norms}, default=Frozen())

    def trains(self, shapes: Shapes) -> Trained:
        """Vectors alone. Raises UserError for a model whose norms have no weights."""
        from cl_bench.costs.trained import only
        from cl_bench.models.places import is_norm

        found = only(shapes, lambda name: is_norm(name, shapes.parameters[name]))
        if not found.entries:
            raise UserError("layernorm: the norms of this model have no weights to train")
        return found

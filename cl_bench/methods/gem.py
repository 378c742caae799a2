"""GEM: gradient episodic memory (Lopez-Paz and Ranzato 2017, arXiv 1706.08840)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from cl_bench.methods.base import Method, Options, Stage, Step

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes


class GEMOptions(Options):
    """Options of GEM."""

    memory: Annotated[int, Field(ge=0)] = Field(
        64,
        description="examples of each earlier task that are kept, all of them seen at every "
        "update; 0 is plain fine-tuning",
    )
    margin: Annotated[float, Field(ge=0)] = Field(
        0.5, description="least weight of a memory's gradient in a projected one (0: none)"
    )


class GEM(Method[GEMOptions]):
    """The nearest gradient that opposes no memory: min |g~ - g|^2 with <g~, g_k> >= 0 for all k.

    g_k is the gradient on all of the memory of the earlier task k. Where some <g, g_k> < 0, the
    dual `min_v v' G G' v / 2 + (G g)' v, v >= margin` gives `g~ = g + G' v`. As in the official
    code the margin bounds v (the paper adds it to v); that also gives G g~ >= 0. Its 1e-3 on the
    diagonal of G G', which lets the constraints slip, is left out: our solver needs none. One
    problem is solved over all parameters together. TRACE's code solves one for each tensor, takes
    the last micro-batch's gradient of a task for g_k, and turns the sign of the dual, which doubles
    what the projection should take away; none of that is done here.
    """

    name = "gem"
    family = "projections"
    source = "Lopez-Paz 2017, arXiv 1706.08840"
    keeps = "examples"

    def adds(self, shapes: Shapes) -> Cost:
        """The gradients on the memories of all earlier tasks, at every update and all at once."""
        from cl_bench.costs.added import Cost, gradient_of_each

        return gradient_of_each(self.options.memory) if self.options.memory else Cost()

    def prepare(self, stage: Stage) -> None:
        """The memory of each earlier task."""
        from cl_bench.methods.memory import memories

        self._stage, self._memories = stage, memories(stage, "gem", self.options.memory)
        if self._memories:
            stage.notes["projected"] = 0

    def before_step(self, step: Step) -> None:
        """The projection, where a memory opposes the update."""
        import numpy as np

        from cl_bench.methods.memory import inner

        past = [step.gradient_of(self._stage.batches(memory)) for memory in self._memories]
        products = np.array([inner(step.grads, one) for one in past])
        if not (products < 0).any():
            return
        gram = _gram(past)
        if not (np.isfinite(products).all() and np.isfinite(gram).all()):
            return  # the update is about to be refused as diverged
        weights = dual(gram, products, self.options.margin)
        for weight, gradient in zip(weights, past, strict=True):
            for name, value in gradient.items():
                step.grads[name].add_(value, alpha=float(weight))
        self._stage.notes["projected"] += 1


def _gram(gradients: Sequence[Mapping[str, Tensor]]) -> np.ndarray:
    import numpy as np

    from cl_bench.methods.memory import inner

    return np.array([[inner(a, b) for b in gradients] for a in gradients])


def dual(gram: np.ndarray, products: np.ndarray, margin: float) -> np.ndarray:
    """v [t] that minimises `v' gram v / 2 + products' v` with v >= margin, all in float64.

    `gram` [t, t] holds the inner products of t gradients, `products` [t] theirs with g. With
    u = v - margin this is a non-negative least-squares problem of a root of the matrix. Gradients
    are scaled to length 1, and what equal ones add is left out, so that the root is well defined.
    """
    import numpy as np
    from scipy.optimize import nnls

    lengths = np.sqrt(gram.diagonal())
    lengths[lengths == 0] = 1.0
    scaled = gram / np.outer(lengths, lengths)
    wanted = -(products + margin * gram.sum(1)) / lengths
    values, vectors = np.linalg.eigh(scaled)
    kept = values > 1e-12 * values.max()
    values, vectors = values[kept], vectors[:, kept]
    root = np.sqrt(values)[:, None] * vectors.T
    u, _ = nnls(root, vectors.T @ wanted / np.sqrt(values))
    found: np.ndarray = u / lengths + margin
    return found

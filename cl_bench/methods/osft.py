"""OSFT (Nayak et al. 2025): train each matrix orthogonally to its largest singular directions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage, Step, overrides

if TYPE_CHECKING:
    from torch import Tensor

    from cl_bench.costs.added import Cost
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.methods.spec import StageSpec
    from cl_bench.methods.subspaces import Split
    from cl_bench.models.layouts import Shape
    from cl_bench.training.update_plan import UpdatePlan


class OSFTOptions(Options):
    """Options of OSFT."""

    unfreeze_rank_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.25, description="share of every matrix's singular directions that is trained, the least"
    )
    others: Literal["frozen", "full"] = Field(
        "frozen", description="embeddings, norms, biases and head: as they are, or fully trained"
    )


class OSFT(Method[OSFTOptions]):
    """W = U_h S_h V_h + U S V by singular value decomposition; only U, S and V are trained.

    `k = floor(min(n, m) (1 - unfreeze_rank_ratio))` directions are kept. Before every update
    dU -= U_h U_h' dU and dV -= dV V_h' V_h; after it U and V are projected likewise, because AdamW
    leaves the subspace. The stage ends with the whole matrix, and the next one decomposes it anew.
    Of all linear layers but the head. The paper's rank of its own for every layer is not here.
    """

    name = "osft"
    family = "projections"
    source = "Nayak 2025, arXiv 2504.07097"

    def __init__(self, options: OSFTOptions | None = None) -> None:
        super().__init__(options)
        self._splits: dict[str, Split] = {}

    def trains(self, shapes: Shapes) -> Trained:
        """The factors, beside the matrices; others frozen or fully trained."""
        from dataclasses import replace

        from cl_bench.costs.trained import adapters, only

        factors = self._factors(shapes)
        if not factors:
            raise UserError(
                "osft: this model has no linear layers of torch's own kind: nothing to decompose"
            )
        base, full = adapters(shapes, factors), self.options.others == "full"
        rest = only(shapes, lambda name: full and not _decomposed(shapes, name))
        kept = frozenset(name for name in shapes.parameters if _decomposed(shapes, name))
        return replace(
            base,
            gradients=base.gradients + rest.gradients,
            optimiser=base.optimiser + rest.optimiser,
            entries=base.entries + rest.entries,
            inputs_kept=kept | rest.inputs_kept,
            checkpoint=shapes.model_bytes,
        )

    def adds(self, shapes: Shapes) -> Cost:
        """The factors as they were, the directions that are projected on, and what they compute.

        `shapes` are of the factors.
        """
        from cl_bench.costs.added import Cost, Disk, Memory, Work
        from cl_bench.costs.kept_selection import choice_bytes

        held, products, kept_inputs = shapes.dtype_bytes * shapes.numel, 0, 0
        for name, (rows, free) in _named(shapes, ".U"):
            columns = shapes.parameters[f"{name}.V"][1]
            kept = min(rows, columns) - free
            for side, complete in ((rows, rows <= columns), (columns, columns <= rows)):
                held += shapes.entry_bytes * side * (min(free, kept) if complete else kept)
            products += free * (rows + columns)
            kept_inputs += 2 * free
        memory = Memory(held=held, per_token=shapes.dtype_bytes * kept_inputs)
        disk = Disk(selection=choice_bytes(shapes, lambda *_: 0))
        return Cost(memory, Work(per_token=4 * products), disk)

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """Methods that keep or merge what is no parameter after the stage any more."""
        classes = [part.method for part in stage.parts]
        after = classes[next(i for i, cls in enumerate(classes) if issubclass(cls, OSFT)) + 1 :]
        if any(cls.name == "kl_base" for cls in after):
            yield (
                "compose: kl_base comes after osft, and would look for its factors in the base "
                "model: list kl_base before osft"
            )
        for part in stage.parts:
            method = part.method
            own = {method.keeps} if isinstance(method.keeps, str) else set(method.keeps)
            if method.adapters or own & {"weights", "statistics"} or overrides(method, "scored"):
                yield (
                    f"trains factors of the matrices, which later stages do not have, and "
                    f"{method.name} keeps, merges or adapts weights: use one of the two"
                )

    def prepare(self, stage: Stage) -> None:
        """Every linear layer but the head gets its factors."""
        from cl_bench.methods.subspaces import split_layers

        ratio = self.options.unfreeze_rank_ratio
        self._splits = split_layers(stage.model, lambda shape: kept_directions(shape, ratio))

    def plan(self, stage: Stage) -> UpdatePlan:
        """U, S and V; with `others: full` everything but the decomposed matrices."""
        from cl_bench.training.update_plan import Frozen, Full, UpdatePlan

        whole = {f"{name}.weight": Frozen() for name in self._splits}
        if self.options.others == "full":
            return UpdatePlan(whole)
        factors = {f"{name}.{part}": Full() for name in self._splits for part in "USV"}
        return UpdatePlan(factors, default=Frozen())

    def before_step(self, step: Step) -> None:
        """Gradients of U and V lose what lies in the kept directions."""
        self._project(step.grads)

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        """And so do U and V."""
        self._project(masters)
        return True

    def finish(self, stage: Stage) -> None:
        """The layers are ordinary ones again, with the trained matrices."""
        from cl_bench.methods.subspaces import merge_layers

        merge_layers(stage.model, self._splits)
        self._splits = {}

    def _project(self, values: Mapping[str, Tensor]) -> None:
        for name, split in self._splits.items():
            split.project(values[f"{name}.U"], values[f"{name}.V"])

    def _factors(self, shapes: Shapes) -> dict[str, Shape]:
        found: dict[str, Shape] = {}
        for name, shape in shapes.parameters.items():
            if _decomposed(shapes, name):
                free = min(shape) - kept_directions(shape, self.options.unfreeze_rank_ratio)
                layer = name.removesuffix(".weight")
                found[f"{layer}.U"], found[f"{layer}.S"] = (shape[0], free), (free,)
                found[f"{layer}.V"] = (free, shape[1])
        return found


def kept_directions(shape: Shape, unfrozen: float) -> int:
    """How many singular directions of a matrix are kept."""
    return math.floor(min(shape) * (1 - unfrozen) + 1e-9)


def _decomposed(shapes: Shapes, name: str) -> bool:
    """Matrices [out, in] of linear layers; the head is none of the products."""
    layout = shapes.layout(name)
    return shapes.is_product(name) and layout.linear and layout.selective and layout.units == (0,)


def _named(shapes: Shapes, end: str) -> Iterator[tuple[str, Shape]]:
    for name, shape in shapes.parameters.items():
        if name.endswith(end):
            yield name.removesuffix(end), shape

"""What a method may change in a stage: for each parameter all of it, nothing, or a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from cl_bench.models.layouts import Layout, Shape


@dataclass(frozen=True)
class Full:
    """Every entry is trained."""


@dataclass(frozen=True)
class Frozen:
    """No entry is trained."""


@dataclass(frozen=True)
class Rows:
    """Rows of a weight [A, B]: `index` int64 [n], sorted, distinct.

    Those are output units where the weight is [Dout, Din] (`models/layouts.py` knows, and
    `select` makes the selection). Rows of a stack of matrices [.., A, B] are counted through
    the stack: row a of the second one is A + a.
    """

    index: Tensor


@dataclass(frozen=True)
class Columns:
    """Columns of a weight [A, B]: `index` int64 [n], sorted, distinct; in stacks as rows are.

    Input features where the weight is [Dout, Din], output units of GPT-2's Conv1D [Din, Dout].
    """

    index: Tensor


@dataclass(frozen=True)
class Elements:
    """Single entries: `mask` bool, of the parameter's shape."""

    mask: Tensor


Selection: TypeAlias = Full | Frozen | Rows | Columns | Elements


def select(layout: Layout, chosen: Tensor, shape: Shape, granularity: str) -> Selection:
    """The selection of what `chosen` (bool, of the shape of the layout's scores) says is trained.

    `shape`: of the parameter; `granularity`: rows, columns or elements.
    """
    if not layout.is_matrix or granularity == "elements":
        return Elements(layout.spread(chosen, shape, granularity).contiguous())
    index = chosen.flatten().nonzero().squeeze(1)
    own = layout.units if granularity == "rows" else layout.inputs
    return Rows(index) if own[0] < len(shape) - 1 else Columns(index)


@dataclass(frozen=True)
class UpdatePlan:
    """A selection for each named parameter; what is not named follows `default`."""

    selections: Mapping[str, Selection] = field(default_factory=dict)
    default: Selection = field(default_factory=Full)

    def of(self, name: str) -> Selection:
        """The selection of the parameter `name` (as in `model.named_parameters()`)."""
        return self.selections.get(name, self.default)

    def tensors(self) -> dict[str, Tensor]:
        """The plan as tensors, to be saved beside the optimiser's state in the middle of a stage.

        Keys `<kind>/<parameter>`; the default's name is `*`.
        """
        named = [*self.selections.items(), ("*", self.default)]
        return {f"{_KINDS[type(s)]}/{name}": _content(s) for name, s in named}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> UpdatePlan:
        """The plan that `tensors()` stored."""
        kinds = {kind: selection for selection, kind in _KINDS.items()}
        selections: dict[str, Selection] = {}
        for key, content in tensors.items():
            kind, name = key.split("/", 1)
            selections[name] = kinds[kind](*([content] if kind in _WITH_CONTENT else []))
        default = selections.pop("*", Full())
        return cls(selections, default)


_KINDS: dict[type[Selection], str] = {
    Full: "full",
    Frozen: "frozen",
    Rows: "rows",
    Columns: "columns",
    Elements: "elements",
}
_WITH_CONTENT = ("rows", "columns", "elements")


def _content(selection: Selection) -> Tensor:
    if isinstance(selection, Rows | Columns):
        return selection.index
    return selection.mask if isinstance(selection, Elements) else torch.empty(0)

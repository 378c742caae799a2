"""What a method may change in a stage: for each parameter all of it, nothing, or a part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor


@dataclass(frozen=True)
class Full:
    """Every entry is trained."""


@dataclass(frozen=True)
class Frozen:
    """No entry is trained."""


@dataclass(frozen=True)
class Rows:
    """Rows of a [Dout, Din] weight (output neurons): `index` int64 [n], sorted, distinct."""

    index: Tensor


@dataclass(frozen=True)
class Columns:
    """Columns of a [Dout, Din] weight (input features): `index` int64 [n], sorted, distinct."""

    index: Tensor


@dataclass(frozen=True)
class Elements:
    """Single entries: `mask` bool, of the parameter's shape."""

    mask: Tensor


Selection: TypeAlias = Full | Frozen | Rows | Columns | Elements


@dataclass(frozen=True)
class UpdatePlan:
    """A selection for each named parameter; what is not named follows `default`."""

    selections: Mapping[str, Selection] = field(default_factory=dict)
    default: Selection = field(default_factory=Full)

    def of(self, name: str) -> Selection:
        """The selection of the parameter `name` (as in `model.named_parameters()`)."""
        return self.selections.get(name, self.default)

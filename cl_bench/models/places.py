"""Where a parameter stands in a model, told by its name: its layer, its part of it, its kind.

Torch is not imported: `cl-bench plan` asks of models without weights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from cl_bench.models.layouts import Shape

_NORM = re.compile(r"norm|^ln(_|$)", re.IGNORECASE)


def is_norm(name: str, shape: Shape) -> bool:
    """Whether a parameter is a norm's: a vector of a module that is called so."""
    return len(shape) == 1 and _NORM.search(name.split(".")[-2]) is not None


def layer_of(name: str) -> tuple[str, int] | None:
    """The list a parameter's layer is in and its number there: `model.layers`, 3; None for others.

    The outermost list counts: experts are numbered within their layer.
    """
    found = re.match(r"(.*?)\.(\d+)\.", name)
    return (found[1], int(found[2])) if found else None


def numbered_layers(names: Iterable[str]) -> dict[str, int]:
    """The layer's number of every parameter in the decoder's list, the one with most parameters."""
    found = {name: place for name in names if (place := layer_of(name)) is not None}
    if not found:
        return {}
    main = Counter(prefix for prefix, _ in found.values()).most_common(1)[0][0]
    return {name: number for name, (prefix, number) in found.items() if prefix == main}

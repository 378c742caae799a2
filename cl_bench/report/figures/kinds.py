"""How each figure of the catalogue is made, and whether `report` draws it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cl_bench.report.figures import (
    changes,
    front,
    kl,
    loss,
    masks,
    matrix,
    places,
    stages,
    sweep,
    within_stages,
)
from cl_bench.report.figures.catalogue import FIGURES
from cl_bench.report.figures.source import Source

Find = Callable[[Source], Any]


@dataclass(frozen=True)
class Kind:
    """A figure that there may be. `find` gives None where its data lacks, `draw` a matplotlib one.

    What `find` gives is equal, as text, exactly where the same would be drawn.
    """

    name: str
    find: Find
    draw: Callable[[Any], Any]
    find_for_report: Find | None
    """What `report` draws; None: nothing."""

    @property
    def shows(self) -> str:
        """In words."""
        return FIGURES[self.name].shows

    @property
    def needs(self) -> str:
        """Without which there is nothing to draw."""
        return FIGURES[self.name].needs


def _kind(name: str, module: Any) -> Kind:
    return Kind(name, module.find, module.draw, module.find)


KINDS: tuple[Kind, ...] = (
    _kind("stages", stages),
    _kind("front", front),
    _kind("matrix", matrix),
    _kind("changes", changes),
    _kind("sweep", sweep),
    _kind("loss", loss),
    _kind("curves", within_stages),
    _kind("kl", kl),
    Kind("masks", masks.find_all, masks.draw, masks.find),
    Kind("places", places.find, places.draw, None),
)
"""As the catalogue has them."""

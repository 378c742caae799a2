"""All figures by name: what each shows, what it needs, and whether `report` draws it."""

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
from cl_bench.report.figures.source import Source


@dataclass(frozen=True)
class Kind:
    """A figure that there may be. `find` gives None where its data lacks, `draw` a matplotlib one.

    What `find` gives is equal, as text, exactly where the same would be drawn.
    """

    name: str
    shows: str
    needs: str
    find: Callable[[Source], Any]
    draw: Callable[[Any], Any]
    find_for_report: Callable[[Source], Any] | None = None
    """What `report` draws; None: nothing."""


def _kind(
    name: str, shows: str, needs: str, module: Any, find: Callable[[Source], Any] | None = None
) -> Kind:
    return Kind(name, shows, needs, find or module.find, module.draw, module.find)


KINDS: tuple[Kind, ...] = (
    _kind(
        "stages",
        "OP and General after every stage",
        "a method with scores after two stages",
        stages,
    ),
    _kind(
        "front",
        "What methods learned against what they lost",
        "a finished method with OP and General, or with forgetting",
        front,
    ),
    _kind("matrix", "Scores of every task after every stage", "a stage with scores", matrix),
    _kind(
        "changes",
        "Documents of each benchmark that were forgotten and learned",
        "a finished method and the records of documents (predictions/)",
        changes,
    ),
    _kind(
        "sweep",
        "One number of a method varied: OP, forgetting and General",
        "two finished methods that differ in one number alone, such as alpha: [0.5, 0.7]",
        sweep,
    ),
    _kind("loss", "Training loss of each stage", "a stage that was trained (train.jsonl)", loss),
    _kind(
        "curves",
        "Scores inside the stages",
        "scores inside the stages (eval.within_stage)",
        within_stages,
    ),
    _kind(
        "kl",
        "KL on the new task's text against the loss of General",
        f"{kl.FEWEST} stages with both (eval.probes.kl_task_texts)",
        kl,
    ),
    _kind(
        "masks",
        "How alike stages are in what they trained",
        "a run with two stages that kept a selection of what it trained",
        masks,
        masks.find_all,
    ),
    Kind(
        "places",
        "Where in the model each stage trained",
        "a stage that kept a selection of what it trained",
        places.find,
        places.draw,
    ),
)
"""In the order in which reports have them."""

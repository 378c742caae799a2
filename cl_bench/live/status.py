"""What a run is at, as plain values: what the screen shows and `status.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Row:
    """A row of the matrix as far as it is scored: percentages by stage task and benchmark."""

    name: str
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """Replaced at every event, never changed: a thread that shows it reads a whole one."""

    experiment: str = ""
    doing: str = "reading"
    """`reading`, `scoring`, `training`, `saving`."""
    what: str = ""
    """The run and stage, or the base model, in words."""
    run: int = 0
    runs: int = 0
    stages_done: int = 0
    stages: int = 0
    """Of all runs together."""
    epoch: int = 0
    epochs: int = 0
    update: int = 0
    updates: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    memory_mb: int | None = None
    task: str = ""
    """What is being scored."""
    documents: int = 0
    of_documents: int = 0
    """Of everything that is scored now."""
    stage_left: float | None = None
    """Seconds; None where nothing is known yet."""
    all_left: float | None = None
    at_least: bool = False
    """Whether the times are of parts alone, since no time of the others is known yet."""
    tasks: tuple[str, ...] = ()
    """Columns of the matrix."""
    benchmarks: tuple[str, ...] = ()
    """Whose mean is General."""
    rows: tuple[Row, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For `status.json`."""
        return asdict(self)


def status_of(data: Mapping[str, Any]) -> Status:
    """What `as_json` gave; what another version wrote besides is left out."""
    known = {one.name for one in fields(Status)}
    values = {key: value for key, value in data.items() if key in known}
    for key in ("tasks", "benchmarks"):
        values[key] = tuple(values.get(key, ()))
    values["rows"] = tuple(
        Row(str(row["name"]), dict(row["scores"])) for row in values.get("rows", ())
    )
    return Status(**values)


def general_of(row: Row, benchmarks: tuple[str, ...]) -> float | None:
    """The unweighted mean of all benchmarks; None before the last one is scored."""
    found = [row.scores[name] for name in benchmarks if name in row.scores]
    return sum(found) / len(found) if found and len(found) == len(benchmarks) else None

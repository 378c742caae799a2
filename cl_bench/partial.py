"""What survives of a scoring that is not finished: a file for each task that is.

<place>/predictions/<leaf>.jsonl    a record per document, written first
<place>/partial/<part>-<name>.json  its scores and what they depend on
<place>/scores.json                 all of it, written last; then partial/ goes away
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.store import read_json, write_json, write_records

Records = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class PartialScores:
    """The finished tasks of one scoring in `place`."""

    place: Path
    basis: Mapping[str, Any]
    """What all of its scores depend on: the model, the engine."""

    def load(self, part: str, name: str, depends_on: Mapping[str, Any]) -> dict[str, Any] | None:
        """The task's entry for `scores.json`; None when it is missing or depends on other things.

        Raises RunError when the file is damaged.
        """
        file = self._file(part, name)
        if not file.is_file():
            return None
        kept = read_json(file)
        entry: dict[str, Any] = kept["entry"]
        return entry if kept["depends_on"] == {**self.basis, **depends_on} else None

    def keep(
        self,
        part: str,
        name: str,
        depends_on: Mapping[str, Any],
        entry: Mapping[str, Any],
        records: Records,
        seconds: float,
    ) -> None:
        """Write the records of the task's leaves, then, atomically, its entry and its time."""
        for leaf, lines in records.items():
            write_records(self.place / "predictions" / f"{leaf}.jsonl", lines)
        whole = {**self.basis, **depends_on}
        kept = {"depends_on": whole, "entry": entry, "seconds": seconds}
        write_json(self._file(part, name), kept)

    def _file(self, part: str, name: str) -> Path:
        return self.place / "partial" / f"{part}-{name}.json"


def scoring_seconds(place: Path) -> float:
    """Spent on the tasks of an unfinished scoring, in all of its sessions."""
    return sum(float(read_json(file)["seconds"]) for file in (place / "partial").glob("*.json"))


def finish_scores(place: Path, scores: Mapping[str, Any]) -> None:
    """Write `scores.json`, which says that the scoring is complete; the parts are dropped."""
    write_json(place / "scores.json", scores)
    drop_partial(place)


def drop_partial(place: Path) -> None:
    """Remove the parts of a finished scoring (again after a kill between its last two steps)."""
    shutil.rmtree(place / "partial", ignore_errors=True)

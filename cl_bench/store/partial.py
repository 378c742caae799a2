"""What survives of a scoring that is not finished: a file for each task that is.

<place>/predictions/<leaf>.jsonl    a record per document, written first
<place>/partial/<part>-<name>.json  its scores, what they depend on, checksums of those files
<place>/scores.json                 all of it, written last; then partial/ goes away
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.scores.general import leaves
from cl_bench.store.folders import read_json, write_json, write_records
from cl_bench.store.seals import file_fault, file_records, read_sealed, seal_of

Records = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class PartialScores:
    """The finished tasks of one scoring in `place`."""

    place: Path
    basis: Mapping[str, Any]
    """What all of its scores depend on: the model, the engine."""

    def load(self, part: str, name: str, depends_on: Mapping[str, Any]) -> dict[str, Any] | None:
        """The task's entry for `scores.json`; None when the task has to be scored (again).

        That is where it is missing or depends on other things, and where it or one of its files of
        records is not as it was written.
        """
        file = self._file(part, name)
        if not file.is_file():
            return None
        try:
            kept = read_sealed(file, "that task is scored again")
        except RunError:
            return None
        recorded = kept.get("files", {})
        if any(file_fault(self.place / name, recorded[name]) for name in recorded):
            return None
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
        names = [f"predictions/{leaf}.jsonl" for leaf in records]
        for name_, lines in zip(names, records.values(), strict=True):
            write_records(self.place / name_, lines)
        whole = {**self.basis, **depends_on}
        kept = {"depends_on": whole, "entry": entry, "seconds": seconds}
        kept["files"] = file_records(self.place, names)
        write_json(self._file(part, name), kept | {"sha256": seal_of(kept)})

    def _file(self, part: str, name: str) -> Path:
        return self.place / "partial" / f"{part}-{name}.json"


def scoring_seconds(place: Path) -> float:
    """Spent on the tasks of an unfinished scoring, in all of its sessions."""
    return sum(float(read_json(file)["seconds"]) for file in (place / "partial").glob("*.json"))


def finish_scores(place: Path, scores: Mapping[str, Any]) -> None:
    """Write `scores.json`, which says that the scoring is complete; the parts are dropped.

    It holds checksums of the records of single documents, of the base model's distributions where
    they are beside it, and of itself.
    """
    tasks = {task: [task] for task in scores["trace"]} | leaves(scores["general"])
    names = [leaf for members in tasks.values() for leaf in members]
    written = [f"predictions/{name}{end}.jsonl" for name in names for end in ("", ".probes")]
    written += [f"kl/{name}.safetensors" for name in names]
    whole = {**scores, "files": file_records(place, sorted([*written, "trained.json"]))}
    write_json(place / "scores.json", whole | {"sha256": seal_of(whole)})
    drop_partial(place)


def drop_partial(place: Path) -> None:
    """Remove the parts of a finished scoring (again after a kill between its last two steps)."""
    shutil.rmtree(place / "partial", ignore_errors=True)

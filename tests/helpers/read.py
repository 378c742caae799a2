"""Reading what a run has left: `scores.json`, and lines of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def scores_of(place: Path) -> dict[str, Any]:
    """`scores.json` of a stage, of `base/` or of a folder below `evals/`."""
    found: dict[str, Any] = json.loads((place / "scores.json").read_text())
    return found


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The records of `predictions/*.jsonl`, `train.jsonl` or `curve.jsonl`."""
    return [json.loads(line) for line in file.read_text().split("\n") if line]

"""A task of the user's own: rows in a file, and the YAML beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def own_task(
    folder: Path, rows: Sequence[Mapping[str, Any]], name: str = "mine", **changes: Any
) -> Path:
    """`<name>.yaml` in a folder, over `rows.jsonl` beside it: prompts and answers, generated."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": "rows.jsonl", "test": "rows.jsonl"}},
        "training_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config | changes))
    return folder

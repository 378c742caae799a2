"""Small experiment files, and what is said of faulty ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve_file

MINIMAL = {
    "name": "x",
    "model": {"path": "smollm2-135m"},
    "methods": ["sft"],
    "stages": [{"task": "mini_fomc"}],
}


def write(folder: Path, name: str = "config.yaml", **changes: object) -> str:
    file = folder / name
    file.write_text(yaml.safe_dump(MINIMAL | changes))
    return str(file)


def faults_of(path: str, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        resolve_file(path, overrides)
    return caught.value.faults

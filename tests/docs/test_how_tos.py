"""Pages that walk through something: their files are written, their commands run."""

from __future__ import annotations

import re
from pathlib import Path

from cl_bench.methods.user_files import method_from_file
from tests.e2e.conftest import Bench

DOCS = Path(__file__).resolve().parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.M | re.S)


def test_a_method_from_an_empty_file_to_a_run(bench: Bench) -> None:
    """With a random model in place of the one that the page names."""
    seen: list[str] = []
    for kind, file, text in BLOCK.findall((DOCS / "writing-a-method.md").read_text()):
        assert file or kind == "console", f"a block that nothing runs:\n{text}"
        seen.append(file or kind)
        if file:
            (bench.root / file).write_text(text)
        if file.endswith(".py"):
            method_from_file(bench.root / file)
        for line in text.splitlines() if kind == "console" else ():
            program, *words = line.removeprefix("$ ").split()
            assert program == "cl-bench"
            model = ["-o", "model.path=./model"] if words[0] in ("plan", "run") else []
            out = bench.must(*words, *model)
    assert seen.count("pull.py") == 3 and seen.count("hard.py") == 1
    assert "hard and pulled" in out and "pull" in out
    folder = bench.root / "results" / "both" / "hard-and-pulled" / "seed-42"
    phases = [
        re.findall(r'"phase": (\d)', (stage / "train.jsonl").read_text())
        for stage in sorted(folder.glob("stage-*"))
    ]
    assert phases == [["1", "1", "2"]] * 2

"""The words of documents in an HTML report, of a real run and its data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.e2e.conftest import Bench


def documents(page: Path) -> tuple[Any, dict[str, Any]]:
    text = page.read_text()
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found is not None
    data = json.loads(found[1])
    (experiment,) = data["experiments"]
    return data, {
        document[0]: document for task in experiment["tasks"] for document in task["documents"]
    }


def test_words_are_read_again_where_they_are_wanted(bench: Bench, tmp_path: Path) -> None:
    bench.trained("--method", "sft")
    page = Path(bench.must("report", str(bench.results), "--format", "html").strip())
    data, found = documents(page)
    assert all(len(document) == 3 for document in found.values())
    assert any("`--texts`" in note for note in data["notes"])

    bench.must("report", str(bench.results), "--format", "html", "--texts")
    data, found = documents(page)
    assert not data["notes"]
    fomc, piqa = found["trace_fomc"], found["general_piqa"]
    assert data["texts"][fomc[3]].startswith("Text ") and not fomc[4]
    number = piqa[1]
    assert data["texts"][piqa[2]] == f"{number % 2}: {['yes', 'no'][number % 2]}"
    assert data["texts"][piqa[3]] == f"Question: g{number}\nAnswer:"
    assert [data["texts"][choice] for choice in piqa[4]] == ["yes", "no"]

    elsewhere = ["--texts", "--data-root", str(tmp_path)]
    bench.must("report", str(bench.results), "--format", "html", *elsewhere)
    data, found = documents(page)
    assert all(len(document) == 3 for document in found.values())
    assert any(note.startswith("`trace_fomc`: its words cannot be shown") for note in data["notes"])

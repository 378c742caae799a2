"""Closed label sets, and answers that have or have lost the format."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.evaluation.answer_form import labels_of, valid_format
from tests.mini.conftest import load


def task(name: str, filters: Any = None, **metadata: Any) -> Any:
    config = SimpleNamespace(metadata=metadata, filter_list=filters)
    return SimpleNamespace(task_name=name, config=config)


CASES = [
    (task("trace_fomc"), "A", True),
    (task("trace_fomc"), "A.", False),
    (task("trace_fomc"), "D", False),
    (task("own", labels=["yes", "no"]), "no", True),
    (task("own", labels=["yes", "no"]), "No", False),
    (task("trace_numglue_cm"), "36", True),
    (task("trace_numglue_cm"), "-1.5", True),
    (task("trace_numglue_cm"), "36 ", False),
    (task("trace_numglue_cm"), "36 km", False),
    (task("trace_numglue_cm"), "", False),
    (task("own", kind="number"), "7", True),
    (task("trace_scienceqa"), "B\nbecause", True),
    (task("trace_scienceqa"), "B", False),
    (task("trace_scienceqa"), "Because", False),
    (task("trace_scienceqa"), "D\nbecause", False),
    (task("own", kind="choice_with_reasoning"), "A because", True),
]


@pytest.mark.parametrize(("of", "text", "expected"), CASES)
def test_valid_format(of: Any, text: str, expected: bool) -> None:
    is_valid = valid_format(of, labels_of(of, ["A\nx", "B\ny", "C\nz"]), "none")
    assert is_valid is not None
    assert is_valid(text) is expected


@pytest.mark.parametrize("name", ["trace_py150", "trace_meetingbank", "trace_20minuten", "own"])
def test_texts_have_no_format(name: str) -> None:
    assert labels_of(task(name), ["a"]) == []
    assert valid_format(task(name), [], "none") is None


def test_an_extracting_filter_says_whether_it_found_anything() -> None:
    strict = {"name": "strict", "filter": [{"function": "regex", "fallback": "?"}]}
    loose = {"name": "loose", "filter": [{"function": "take_first"}, {"function": "regex"}]}
    plain = {"name": "plain", "filter": [{"function": "take_first"}]}
    of = task("own", [strict, loose, plain])
    by_name = {name: valid_format(of, [], name) for name in ("strict", "loose", "plain")}
    assert by_name["plain"] is None
    assert by_name["strict"] is not None and by_name["loose"] is not None
    assert (by_name["strict"]("?"), by_name["strict"]("[invalid]")) == (False, True)
    assert (by_name["loose"]("[invalid]"), by_name["loose"]("7")) == (False, True)


def test_generated_tasks_have_the_format_of_those_they_imitate() -> None:
    tasks = load()
    for name in ("cstance", "fomc", "scienceqa", "numglue_cm", "numglue_ds"):
        own, trace = tasks[f"mini_{name}"], task(f"trace_{name}")
        answers = [doc["answer"] for doc in own.eval_docs]
        labels = labels_of(own, answers)
        assert labels == labels_of(trace, answers)
        is_valid = valid_format(own, labels, "none")
        assert is_valid is not None
        assert all(map(is_valid, answers))

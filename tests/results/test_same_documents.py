"""Scores are paired where the documents are the same; the others are counted."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cl_bench.errors import UserError
from cl_bench.results.answers import read_scoring
from cl_bench.results.compare import compare_places
from cl_bench.results.places import Place
from cl_bench.results.same_documents import (
    Reference,
    left_out_line,
    mixed_prompts,
    other_data,
    pair,
)
from cl_bench.results.summary import documents
from cl_bench.store.experiments import write_run
from cl_bench.store.folders import RunFolder, sha256_of

NAMES = {"birds": ["birds"], "trees": ["trees"]}
READ = partial(documents, names=NAMES)


def record(document: int, **changes: Any) -> dict[str, Any]:
    return {"doc_id": document, "prompt_hash": "p", "target": 1, "score": 0.5, **changes}


def stage(run: Path, test: str = "t", **changed: dict[int, dict[str, Any] | None]) -> Path:
    """`predictions/` of one stage with two tasks of three documents, and the run's record."""
    place = run / "stage-1-birds"
    (place / "predictions").mkdir(parents=True)
    data = {leaf: {"test": test, "train (seed 1)": "r"} for leaf in ("birds", "trees")}
    write_run(run / "run.json", {"config": {}, "sha256": sha256_of({}), "data": data})
    for leaf in data:
        edits = changed.get(leaf, {})
        kept = [i for i in sorted({0, 1, 2, *edits}) if edits.get(i, {}) is not None]
        lines = [record(i, **(edits.get(i) or {})) for i in kept]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (place / "predictions" / f"{leaf}.jsonl").write_text(text)
    entries = {leaf: {"score": 0.5, "metric": "rouge"} for leaf in data}
    (place / "scores.json").write_text(json.dumps({"trace": entries, "general": {}}))
    return place / "predictions"


def test_equal_documents_are_all_paired(tmp_path: Path) -> None:
    found = pair(
        [stage(tmp_path / "a"), stage(tmp_path / "b", birds={1: {"score": 0.0}})], READ, NAMES
    )
    assert found is not None and found.left_out == {}
    assert left_out_line(found.left_out) is None
    assert [len(side["birds"]) for side in found.sides] == [3, 3]


def test_documents_that_differ_are_left_out_and_counted(tmp_path: Path) -> None:
    other = stage(
        tmp_path / "b",
        test="u",
        birds={0: {"prompt_hash": "q"}, 1: {"target": 0}, 2: None},
        trees={2: {"target": [1]}},
    )
    found = pair([stage(tmp_path / "a"), other], READ, NAMES)
    assert found is not None
    assert found.left_out == {"birds": 3, "trees": 1}
    assert [list(side) for side in found.sides] == [["trees"], ["trees"]]
    assert [key for key, _ in found.sides[0]["trees"]] == ["trees/0", "trees/1"]
    line = left_out_line(found.left_out)
    assert line is not None and line.endswith(": birds 3, trees 1.")


def test_rows_that_differ_where_no_record_shows_it(tmp_path: Path) -> None:
    """Such as the wrong choices of a question."""
    a, b = stage(tmp_path / "a"), stage(tmp_path / "b", test="u")
    found = pair([a, b], READ, NAMES)
    assert found is not None and found.left_out == {"birds": 3, "trees": 3}
    assert found.sides == [{}, {}]
    with pytest.raises(UserError, match="birds: not the same documents: prompts and targets are"):
        compare_places(Place(a.parent), Place(b.parent), ["birds"])


def test_scores_of_other_metrics_are_not_compared(tmp_path: Path) -> None:
    a, b = stage(tmp_path / "a"), stage(tmp_path / "b")
    for run, metrics in ((tmp_path / "a", "m"), (tmp_path / "b", "n")):
        written = json.loads((run / "run.json").read_text())
        keys = {"metric_list": metrics, "doc_to_text": "same"}
        written["inputs"] = {"tasks": {"birds": keys, "trees": {"metric_list": "m"}}}
        write_run(run / "run.json", written)
    with pytest.raises(UserError, match="birds: not scored alike: metric_list of its definition"):
        compare_places(Place(a.parent), Place(b.parent))
    assert compare_places(Place(a.parent), Place(b.parent), ["trees"])[0].before == 0.5


def test_what_runs_of_one_experiment_record_is_compared(tmp_path: Path) -> None:
    runs = [tmp_path / "sft" / "seed-1", tmp_path / "ewc" / "seed-1"]
    stage(runs[0])
    stage(runs[1], test="u", birds={1: {"prompt_hash": "q"}})
    folders = [RunFolder(run) for run in runs]
    assert list(other_data(tmp_path, folders)) == [
        "data: other test documents of birds, trees in ewc/seed-1 than in sft/seed-1"
    ]
    assert list(other_data(tmp_path, folders[:1])) == []
    base = tmp_path / "base" / "predictions"
    base.mkdir(parents=True)
    (base / "birds.jsonl").write_text("".join(json.dumps(record(i)) + "\n" for i in range(3)))
    assert mixed_prompts(tmp_path, folders[0]) == {}
    assert mixed_prompts(tmp_path, folders[1]) == {"birds": 1}


def test_scores_of_all_documents_together_need_all_of_them(tmp_path: Path) -> None:
    """Their values are resamples, which no single document can be left out of."""
    places = [stage(tmp_path / name).parent for name in "ab"]
    places.append(stage(tmp_path / "c", trees={1: {"prompt_hash": "q"}}).parent)
    entry = {"score": 0.5, "aggregation": "mcc", "resamples": [0.4, 0.5, 0.6]}
    reference, found = Reference(), []
    for place in places:
        scores = {"trace": {"birds": entry, "trees": entry}, "general": {}}
        (place / "scores.json").write_text(json.dumps(scores))
        found.append(read_scoring(reference, place, NAMES))
    assert [len(side.values["trees"]) for side in found[:2]] == [3, 3]
    assert found[2].left_out == {"trees": 1} and list(found[2].values) == ["birds"]


@pytest.mark.parametrize(
    ("other", "said", "left_out"),
    [
        ({}, "", set()),
        ({"birds": {1: {"score": 0.0}}}, "", set()),
        ({"birds": {0: {"prompt_hash": "q"}, 2: None}}, "1 only in A", {0, 2}),
        ({"birds": {3: {}}}, "1 only in B", {3}),
        ({"birds": {0: {"target": 0}}, "test": "u"}, "1 with another target", {0}),
        ({"test": "u"}, "other fields of the rows differ", {0, 1, 2}),
    ],
)
def test_diff_reports_and_probes_know_the_same_documents(
    tmp_path: Path, other: dict[str, Any], said: str, left_out: set[int]
) -> None:
    a, b = stage(tmp_path / "a"), stage(tmp_path / "b", **other)
    reference, names = Reference(), {"birds": ["birds"]}
    read_scoring(reference, a.parent, names)
    found = read_scoring(reference, b.parent, names)
    paired = pair([a, b], READ, NAMES)
    assert paired is not None
    assert found.left_out.get("birds", 0) == paired.left_out.get("birds", 0) == len(left_out)
    kept = [f"birds/{i}" for i in range(3) if i not in left_out]
    assert list(found.values.get("birds", {})) == kept
    assert [key for key, _ in paired.sides[0].get("birds", [])] == kept
    if said:
        with pytest.raises(UserError, match=said):
            compare_places(Place(a.parent), Place(b.parent), ["birds"])
    else:
        (diff,) = compare_places(Place(a.parent), Place(b.parent), ["birds"])
        assert [key for _, key in (each.key for each in diff.pairs)] == [0, 1, 2]

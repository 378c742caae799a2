"""Stages that only train: no column, no cell, and no test documents needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import Bench
from tests.helpers.read import scores_of


@pytest.fixture
def notes(bench: Bench) -> Bench:
    """A task of the user's own without a test split stands between the two stages."""
    folder = bench.root / "own"
    folder.mkdir()
    rows = "".join(json.dumps({"q": f"note {i}:", "a": "yes"}) + "\n" for i in range(6))
    (bench.root / "rows.jsonl").write_text(rows)
    (folder / "notes.yaml").write_text(
        "task: notes\ndataset_path: json\noutput_type: generate_until\n"
        f"dataset_kwargs: {{data_files: {{train: {bench.root / 'rows.jsonl'}}}}}\n"
        "training_split: train\ndoc_to_text: q\ndoc_to_target: a\n"
        "metric_list: [{metric: exact_match}]\n"
    )
    stages = [{"task": "FOMC", "limit": 8}, {"task": "notes", "score": False}]
    bench.write_config(task_paths=["own"], stages=[*stages, {"task": "trace_numglue_ds"}])
    return bench


def scores(run: Path, stage: int) -> dict:
    (folder,) = run.glob(f"stage-{stage}-*")
    return scores_of(folder)


def test_the_matrix_has_rows_for_them_and_no_columns(notes: Bench) -> None:
    out = notes.must("run", "tiny.yaml", "--method", "sft")
    base = json.loads((notes.results / "base" / "scores.json").read_text())
    assert list(base["trace"]) == ["trace_fomc", "trace_numglue_ds"]
    run = notes.results / "sft" / "seed-1"
    found = [list(scores(run, stage)["trace"]) for stage in (1, 2, 3)]
    assert found == [["trace_fomc"], ["trace_fomc"], ["trace_fomc", "trace_numglue_ds"]]
    second = scores(run, 2)
    assert second["op"] == second["trace"]["trace_fomc"]["score"]
    assert len((run / "stage-2-notes" / "train.jsonl").read_text().splitlines()) == 2
    summary = json.loads((run / "summary.json").read_text())
    assert summary["tasks"] == ["trace_fomc", "trace_numglue_ds"]
    assert summary["learned"] == {"trace_fomc": 1, "trace_numglue_ds": 3}
    last = {task: entry["score"] for task, entry in scores(run, 3)["trace"].items()}
    assert summary["op_final"]["value"] == pytest.approx(sum(last.values()) / 2)
    first = scores(run, 1)["trace"]["trace_fomc"]["score"]
    assert summary["bwt"]["value"] == pytest.approx(last["trace_fomc"] - first)
    assert [measure["value"] is not None for measure in summary["op"]] == [True] * 3
    assert "3 stages (1 only trained on: notes)" in out
    full = notes.must("report", "tiny", "--full")
    assert "| 2     |" in full and "| stage |" in full


def test_the_last_one_counts_as_forgetting(notes: Bench) -> None:
    stages = [{"task": "FOMC", "limit": 8}, {"task": "notes", "score": False, "lr": 0.05}]
    notes.write_config(stages=stages)
    notes.must("run", "tiny.yaml", "--method", "sft", "-o", "eval.within_stage=epoch")
    run = notes.results / "sft" / "seed-1"
    summary = json.loads((run / "summary.json").read_text())
    after = [scores(run, stage)["trace"]["trace_fomc"]["score"] for stage in (1, 2)]
    assert summary["op_final"]["value"] == after[1]
    assert summary["bwt"]["value"] == pytest.approx(after[1] - after[0])
    curve = (run / "stage-2-notes" / "curve.jsonl").read_text().splitlines()
    assert list(json.loads(curve[0])["trace"]) == ["trace_fomc"]
    code, out, err = notes.run("eval", "--stage", "2")
    assert code == 0, err
    assert list(json.loads(Path(out.strip()).read_text())["trace"]) == ["trace_fomc"]


def test_the_first_one_has_no_op(notes: Bench) -> None:
    notes.write_config(stages=[{"task": "notes", "score": False}, {"task": "FOMC", "limit": 8}])
    notes.must("run", "tiny.yaml", "--method", "sft", "-o", "eval.trace.cells=all")
    run = notes.results / "sft" / "seed-1"
    assert scores(run, 1)["op"] is None and list(scores(run, 1)["trace"]) == ["trace_fomc"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["op"][0]["value"] is None
    assert summary["op_mean"]["value"] == summary["op_final"]["value"]
    base = json.loads((notes.results / "base" / "scores.json").read_text())
    gained = scores(run, 1)["trace"]["trace_fomc"]["score"] - base["trace"]["trace_fomc"]["score"]
    assert summary["fwt"]["value"] == pytest.approx(gained)


def test_a_scored_stage_needs_test_documents(notes: Bench) -> None:
    notes.write_config(stages=[{"task": "notes"}])
    code, _, err = notes.run("run", "tiny.yaml")
    assert code == 2 and "notes: could not be loaded" in err and "test docs" in err
    code, out, _ = notes.run("plan", "tiny.yaml", "-o", "stages.0.score=false")
    assert (
        code == 0 and "stage 1: notes, 1 epochs, all examples, from the previous model, only" in out
    )

"""Sequences that are none: all tasks at once, each by itself, a task again, stages appended."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import cl_bench.experiment.scoring as scoring
from tests.e2e.conftest import Bench, fingerprints

FOMC, DS = "trace_fomc", "trace_numglue_ds"


def read(file: Path) -> Any:
    return json.loads(file.read_text())


def scores(run: Path, stage: int) -> Any:
    (folder,) = run.glob(f"stage-{stage}-*")
    return read(folder / "scores.json")


def main_row(bench: Bench, label: str) -> dict[str, Any]:
    """A method's numbers in the method table."""
    (table,) = json.loads(bench.must("report", "tiny", "--format", "json", "--table", "main"))[
        "tables"
    ]
    row = next(row for row in table["rows"] if row["method"] == label)
    return {key: cell["value"] if isinstance(cell, dict) else cell for key, cell in row.items()}


def test_all_at_once_and_each_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = ["single", {"name": "mtl", "epochs": 2}, {"compose": ["mtl", "lora"], "epochs": 1}]
    bench.write_config(methods=["sft", *methods])
    out = bench.must("plan", "tiny.yaml")
    joint = f"stage 1: {FOMC} + {DS}, 2 epochs, 8 + all examples, from the base model"
    assert joint in out and f"stage 2: {DS}, 2 epochs, all examples, from the base model" in out

    real = scoring.finish_scores

    def killed(place: Path, found: Any) -> None:
        if place.name == "stage-1-joint":
            raise KeyboardInterrupt
        real(place, found)

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "finish_scores", killed)
        assert bench.run("run", "tiny.yaml")[0] == 130
    assert (bench.results / "mtl/seed-1/stage-1-joint/checkpoint").is_dir()
    out = bench.must("run", "tiny.yaml")
    bench.must("run", "tiny.yaml", "-o", "name=whole", "--method", "mtl")
    mtl = bench.results / "mtl" / "seed-1"
    assert fingerprints(mtl) == fingerprints(bench.root / "results/whole/mtl/seed-1")

    found, summary = scores(mtl, 1), read(mtl / "summary.json")
    assert found["task"] == [FOMC, DS] == list(found["trace"]) and found["general"]["piqa"]
    assert len((mtl / "stage-1-joint/train.jsonl").read_text().splitlines()) == 2 * 5
    mean = sum(entry["score"] for entry in found["trace"].values()) / 2
    assert found["op"] == summary["op_final"]["value"] == summary["op_mean"]["value"] == mean
    assert summary["setting"] == "joint" and summary["learned"] == {FOMC: 1, DS: 1}
    assert summary["bwt"]["value"] is None and summary["forgetting"]["value"] is None
    recorded = read(mtl / "run.json")["config"]["stages"]
    assert [(one["limit"], one["test_limit"], one["start"]) for one in recorded] == [
        ([8, None], [None, None], "base")
    ]
    row = main_row(bench, "mtl")
    assert row["op_final"] == row["op_mean"] is not None
    assert row["bwt"] is row["forgotten"] is None
    out = bench.report()
    assert "| joint |" in out.split("## mtl, seed 1")[1].split("##")[0]

    single, sft = bench.results / "single/seed-1", bench.results / "sft/seed-1"
    assert [list(scores(single, t)["trace"]) for t in (1, 2)] == [[FOMC], [DS]]
    assert scores(single, 1)["trace"] == scores(sft, 1)["trace"]  # both from the base model
    assert scores(single, 2)["checkpoint"] != scores(sft, 2)["checkpoint"]
    assert [scores(single, t)["op"] for t in (1, 2)] == [None, None]
    summary = read(single / "summary.json")
    assert summary["setting"] == "single" and summary["op_final"]["value"] is None
    diagonal = [scores(single, 1)["trace"][FOMC]["score"], scores(single, 2)["trace"][DS]["score"]]
    assert summary["learning_accuracy"]["value"] == pytest.approx(sum(diagonal) / 2)
    row = main_row(bench, "single")
    assert row["op_final"] is row["op_mean"] is row["bwt"] is row["general"] is None
    assert "no model has seen all tasks" in out
    assert "sft - single" not in out and "| OP final | sft - mtl " in out

    files = bench.must("eval", "tiny", "--stage", "1").split()
    names = {Path(file).parts[-6]: list(read(bench.root / file)["trace"]) for file in files}
    both = [FOMC, DS]
    assert names == {"sft": [FOMC], "single": [FOMC], "mtl": both, "mtl-lora": both}
    _, out, err = bench.run("eval", "tiny", "--stage", "2", "--task", "FOMC", "--limit", "2")
    assert len(out.split()) == 2 and "mtl/seed-1: left out: it has no stage 2" in err
    out = bench.must("diff", "tiny/sft/seed-1/stage-2", "mtl/stage-1")
    assert FOMC in out and DS in out


def test_one_task_is_not_several(bench: Bench) -> None:
    for command in ("plan", "run"):
        code, _, err = bench.run(
            *(command, "tiny.yaml", "-o", "methods=[mtl]", "-o", "stages=[{task: FOMC}]")
        )
        assert code == 2 and f"mtl trains all tasks at once, and {FOMC} is the only one" in err
    assert not bench.results.exists()


def test_a_task_comes_again(bench: Bench) -> None:
    stages = [{"task": "FOMC", "limit": 4}, {"task": DS}, {"task": "FOMC", "limit": 8, "epochs": 2}]
    bench.write_config(stages=stages, methods=["sft", {"name": "replay", "ratio": 0.5}])
    bench.must("run", "tiny.yaml")
    out = bench.report()
    assert list(read(bench.results / "base/scores.json")["trace"]) == [FOMC, DS]
    sft, replay = (bench.results / name / "seed-1" for name in ("sft", "replay"))
    rows = [scores(sft, stage) for stage in (1, 2, 3)]
    assert [list(row["trace"]) for row in rows] == [[FOMC], [FOMC, DS], [FOMC, DS]]
    steps = [len((sft / f"stage-{t}-{FOMC}/train.jsonl").read_text().splitlines()) for t in (1, 3)]
    assert steps == [1, 2 * 2]
    summary = read(sft / "summary.json")
    assert summary["tasks"] == [FOMC, DS] and summary["latest"] == {FOMC: 3}
    last = [row["trace"][DS]["score"] for row in rows[1:]]
    assert summary["bwt"]["value"] == pytest.approx(last[1] - last[0])
    assert summary["op_final"]["value"] == rows[2]["op"]
    notes = [scores(replay, stage)["notes"]["replayed_examples"] for stage in (1, 2, 3)]
    assert notes == [0, 2, 6]  # half of 4 of FOMC; then of the 12 of DS alone
    assert "| FOMC, stage 1 |" in out and "| FOMC, stage 3 |" in out
    assert "none" not in bench.must("plan", "tiny.yaml").split("stage 3")[1].split("from")[0]


def test_stages_are_appended(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    every = {"trace": {"limit": 6, "cells": "all"}, "general": {"tasks": ["piqa"], "limit": 4}}
    one = [{"task": "FOMC", "limit": 4}]
    two = [*one, {"task": DS}, {"task": "FOMC", "limit": 8}]
    bench.write_config(methods=["sft"], eval=every, stages=one)
    bench.must("run", "tiny.yaml")
    sft, base = bench.results / "sft/seed-1", bench.results / "base"
    before, record = fingerprints(sft / f"stage-1-{FOMC}"), read(sft / "run.json")
    scored = read(base / "scores.json")
    shutil.copytree(bench.results, bench.root / "pristine")

    bench.write_config(stages=two)
    said = []
    real = scoring.Suite.score

    def listening(self: Any, subject: Any, units: Any, place: Path, *more: Any) -> Any:
        said.append((place.name, [unit.name for unit in units]))
        if len(said) == 2:
            raise KeyboardInterrupt
        return real(self, subject, units, place, *more)

    with monkeypatch.context() as patch:
        patch.setattr(scoring.Suite, "score", listening)
        code, _, err = bench.run("run", "tiny.yaml")  # the base model has its new column by now
        assert code == 130 and f"appended: stage 2 ({DS}), stage 3 ({FOMC})" in err
        code, _, err = bench.run("run", "tiny.yaml")
    assert code == 0 and "appended:" not in err  # the start before has said it
    out = bench.report()
    assert said[0] == ("base", [DS]) and [place for place, _ in said[1:]] == [
        *(f"stage-2-{DS}", f"stage-2-{DS}", f"stage-3-{FOMC}")
    ]
    assert fingerprints(sft / f"stage-1-{FOMC}") == before
    assert "sft, seed 1, stage 1: NumGLUE-ds not scored: appended later." in out
    now = read(sft / "run.json")
    assert now["config"]["stages"][0] == record["config"]["stages"][0]
    assert len(now["config"]["stages"]) == 3 and now["appended"][0]["from_stage"] == 2

    bench.must("run", "tiny.yaml", "-o", "name=whole")
    whole = bench.root / "results/whole"
    joined, alike = (read(place / "base/scores.json") for place in (bench.results, whole))
    assert joined == alike and joined["trace"][FOMC] == scored["trace"][FOMC]
    for stage in (f"stage-2-{DS}", f"stage-3-{FOMC}"):
        assert fingerprints(sft / stage) == fingerprints(whole / "sft/seed-1" / stage)
    assert now["data"] == read(whole / "sft/seed-1/run.json")["data"]

    first, *later = two
    for stages, text in (
        ([first, *reversed(later)], f"stages: were {FOMC}, {DS}, {FOMC}; are"),
        ([first], f"stages: were {FOMC}, {DS}, {FOMC}; are {FOMC}"),
        ([{**first, "limit": 5}, *later], "limit: was 4, is 5, stage 1 (sft/seed-1)"),
        ([{**first, "epochs": 2}, *later, {"task": DS}], "epochs: was 1, is 2, stage 1 (sft/seed"),
    ):
        for command in ("plan", "run"):
            code, _, err = bench.run(command, "tiny.yaml", "-o", f"stages={json.dumps(stages)}")
            assert code == 2 and text in err, err
    more = json.dumps([*two, {"task": DS, "epochs": 2}])
    bench.must("plan", "tiny.yaml", "-o", f"stages={more}")


def test_a_joint_stage_cannot_be_appended_to(bench: Bench) -> None:
    bench.write_config(methods=[{"name": "mtl", "epochs": 1}])
    bench.must("run", "tiny.yaml", "-o", "eval.probes=false")
    stages = '[{task: FOMC, limit: 8}, {task: trace_numglue_ds, epochs: 2}, {task: "mini_fomc"}]'
    words = ["-o", "eval.probes=false", "-o", f"stages={stages}"]
    code, _, err = bench.run("plan", "tiny.yaml", *words)
    assert code == 2 and "stages: mini_fomc added at the end: a stage that trains all" in err
    assert "give the config another name" in err
    bench.must("run", "tiny.yaml", *words, "-o", "methods=[sft]")  # it is not in the config
    out = bench.report()
    assert "- mtl: has the first 2 of 3 tasks of the sequence" in out

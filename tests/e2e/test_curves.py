"""Scoring inside the stages: right, and without a trace in what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.read import lines_of, scores_of

STAGES = ["stage-1-trace_fomc", "stage-2-trace_numglue_ds"]


def points(folder: Path) -> list[dict[str, Any]]:
    return lines_of(folder / "curve.jsonl")


def scores(folder: Path, part: str = "trace") -> dict[str, Any]:
    """Score, standard error and n of each task, as a curve has them."""
    entries = scores_of(folder)[part]
    return {
        task: {key: entry[key] for key in ("score", "stderr", "n")}
        for task, entry in entries.items()
        if task != "mean"
    }


def trained(folder: Path) -> dict[str, str]:
    """Checksums of what training alone decides."""
    return {
        name: sha
        for name, sha in fingerprints(folder).items()
        if "checkpoint/" in name or name.endswith(("train.jsonl", "method.safetensors"))
    }


@pytest.mark.parametrize(
    ("methods", "dtype", "checkpointing"),
    [
        (["sft", "migu"], "float32", "false"),
        (["fggm", "lora"], "bfloat16", "true"),
        pytest.param(["fggm", "lora"], "float32", "false", marks=pytest.mark.slow),
        pytest.param(["sft", "migu"], "bfloat16", "true", marks=pytest.mark.slow),
    ],
)
def test_training_is_the_same_to_the_bit(
    bench: Bench, methods: list[str], dtype: str, checkpointing: str
) -> None:
    """Neither scores after a stage nor scores inside it change a loss, a weight or a state."""
    bench.write_config(
        methods=methods,
        model={"path": "./model", "dtype": dtype},
    )
    common = ["run", "tiny.yaml", "-o", f"train.gradient_checkpointing={checkpointing}"]
    none = ["-o", "eval.trace.after=never", "-o", "eval.general.after=never"]
    bench.must(*common, *none, "-o", "name=bare")
    bench.must(*common, "-o", "eval.within_stage={every: 2, tasks: [FOMC, piqa], limit: 2}")
    bare = bench.root / "results" / "bare"
    for method in methods:
        expected = trained(bare / method)
        assert len(expected) > 8
        assert trained(bench.results / method) == expected, method


@pytest.mark.parametrize(
    ("method", "engine"),
    [
        ("fggm", "hf"),
        ("lora", "cl-bench"),
        pytest.param("sft", "cl-bench", marks=pytest.mark.slow),
    ],
)
def test_a_point_is_what_the_saved_model_scores(bench: Bench, method: str, engine: str) -> None:
    bench.write_config(methods=[method], model={"path": "./model", "dtype": "bfloat16"})
    common = ["run", "tiny.yaml", "--engine", engine, "-o", "train.schedule=constant"]
    common += ["-o", "train.gradient_checkpointing=true", "-o", "train.lr=0.01"]
    within = ["-o", "eval.within_stage={every: epoch, tasks: [FOMC, NumGLUE-ds, piqa]}"]
    bench.must(*common, "-o", "stages.0.epochs=2", *within)
    bench.must(*common, "-o", "name=short")
    run, short = (
        bench.root / "results" / name / method / "seed-1" / STAGES[0] for name in ("tiny", "short")
    )
    begin, middle, end = points(run)
    base = bench.results / "base"
    assert begin["trace"] == scores(base)
    assert begin["general"] == scores(base, "general")
    assert middle["trace"]["trace_fomc"] == scores(short)["trace_fomc"]
    assert middle["general"] == scores(short, "general")
    assert end["trace"]["trace_fomc"] == scores(run)["trace_fomc"]
    assert end["general"] == scores(run, "general")
    assert [(p["step"], p["epoch"]) for p in (begin, middle, end)] == [(0, 0), (2, 1), (4, 2)]


def test_when_and_what_is_scored(bench: Bench) -> None:
    bench.must("run", "tiny.yaml", "--method", "sft", "-o", "eval.within_stage=4")
    run = bench.results / "sft" / "seed-1"
    assert [point["step"] for point in points(run / STAGES[0])] == [0, 2]
    assert [point["step"] for point in points(run / STAGES[1])] == [0, 4, 6]
    assert list(points(run / STAGES[0])[0]["trace"]) == ["trace_fomc"]
    assert list(points(run / STAGES[1])[0]["trace"]) == ["trace_fomc", "trace_numglue_ds"]
    assert (
        points(run / STAGES[1])[0]["trace"]["trace_fomc"] == scores(run / STAGES[0])["trace_fomc"]
    )
    few = "eval.within_stage={every: epoch, tasks: [piqa], limit: 2}"
    never = "eval.general.after=never"
    bench.must("run", "tiny.yaml", "--method", "sft", "-o", "name=few", "-o", few, "-o", never)
    run = bench.root / "results" / "few" / "sft" / "seed-1"
    assert [point["step"] for point in points(run / STAGES[1])] == [0, 3, 6]
    assert points(run / STAGES[1])[0]["trace"] == {}
    assert points(run / STAGES[1])[0]["general"]["piqa"]["n"] == 2
    assert scores(run / STAGES[1], "general") == {}
    bench.must("eval", "few", "--stage", "1", "--task", "FOMC")


def test_the_plan_names_it(bench: Bench) -> None:
    out = bench.must("plan", "tiny.yaml", "-o", "eval.within_stage=20")
    assert "inside a stage every 20 updates: its own task and the earlier ones" in out
    out = bench.must("plan", "tiny.yaml", "-o", "eval.within_stage={tasks: [piqa]}")
    assert "inside a stage every epoch: piqa" in out


@pytest.mark.usefixtures("figures")
def test_the_report_has_a_table_and_a_figure(bench: Bench) -> None:
    bench.must("run", "tiny.yaml", "-o", "eval.within_stage=epoch", "--method", "sft")
    out = bench.report()
    assert "## Inside the stages" in out
    assert "### sft" in out and "| 2     |      6 |     2 | " in out
    link = "(report-figures/curves.svg)"
    assert link in (bench.results / "report-full.md").read_text()
    drawn = bench.results / "report-figures/curves.svg"
    before = drawn.read_bytes()
    assert "NumGLUE-ds" in before.decode()
    drawn.unlink()
    bench.report()
    assert drawn.read_bytes() == before


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "eval.within_stage.every"),
        ("epochs", "eval.within_stage.every"),
        ("{every: 5, task: [piqa]}", "unknown key (did you mean 'tasks'?)"),
        ("{tasks: [pica]}", "eval.within_stage.tasks: pica: neither a stage task"),
        ("{limit: 0}", "eval.within_stage.limit"),
    ],
)
def test_wrong_input(bench: Bench, value: str, expected: str) -> None:
    code, _, err = bench.run("run", "tiny.yaml", "-o", f"eval.within_stage={value}")
    assert code == 2 and expected in err, err
    assert not (bench.root / "results").exists()

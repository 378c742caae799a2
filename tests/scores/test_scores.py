from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.scores.matrix import (
    Cell,
    ScoreMatrix,
    average_forgetting,
    backward_transfer,
    forward_transfer,
    general_mean,
    general_score,
    learning_accuracy,
    op_at,
    op_final,
    op_mean,
    op_mean_weights,
    operation_score,
    summarise,
    unweighted_mean,
    weighted_mean,
)

TASKS = ["a", "b", "c"]
# R[stage][task]; 0 is the base model.
SQUARE = [
    {"a": 0.1, "b": 0.2, "c": 0.3},
    {"a": 0.8, "b": 0.3, "c": 0.3},
    {"a": 0.9, "b": 0.7, "c": 0.5},
    {"a": 0.5, "b": 0.6, "c": 0.9},
]


def cells(row: dict[str, float]) -> dict[str, Cell | None]:
    return {task: Cell(score, 100, 0.02) for task, score in row.items()}


def matrix(setting: Any = "sequential", rows: Any = None, base: Any = True) -> ScoreMatrix:
    chosen = [cells(row) for row in SQUARE[1:]] if rows is None else rows
    return ScoreMatrix(chosen, TASKS, cells(SQUARE[0]) if base else None, setting)


def golden(shared_dir: Path) -> dict[str, Any]:
    text = (shared_dir / "golden" / "op_bwt_general.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_golden_op_and_bwt(shared_dir: Path) -> None:
    for run in golden(shared_dir)["op_bwt"]:
        tasks = [f"task{i}" for i in range(len(run["diagonal"]))]
        rows = [
            {task: Cell(score, 500)} for task, score in zip(tasks, run["diagonal"], strict=True)
        ]
        last = zip(tasks, run["final_row"], strict=True)
        rows[-1] = {task: Cell(score, 500) for task, score in last}
        summary = summarise(rows, tasks).to_json()
        assert summary["op_final"]["value"] == pytest.approx(run["OP"], abs=1e-9)
        assert summary["bwt"]["value"] == pytest.approx(run["BWT_T_minus_1"], abs=1e-9)
        assert summary["bwt_over_T"]["value"] == pytest.approx(run["BWT_T"], abs=1e-9)
        assert round(summary["bwt"]["value"], 3) == pytest.approx(run["paper_BWT"], abs=1e-9)
        assert summary["op_mean"]["value"] is None
        assert summary["op_mean"]["not_measured"].startswith("task0 after stage 2, ")


def test_golden_general(shared_dir: Path) -> None:
    data = golden(shared_dir)["general_delta"]
    base = {name: Cell(score / 100, 1000) for name, score in data["base llama2-7b-chat"].items()}
    scores = zip(base, data["SeqFT"]["scores"], strict=True)
    result = general_score({name: Cell(score / 100, 1000) for name, score in scores}, base)
    assert 100 * result.delta.value == pytest.approx(data["SeqFT"]["delta"], abs=1e-9)
    # The mean hides these: GSM8K, BBH and MMLU fell, TyDiQA, BoolQ and PIQA rose.
    assert 100 * result.loss == pytest.approx(-(0.13 + 22.59 + 10.12) / 3)
    assert 100 * result.gain == pytest.approx((9.76 + 7.34 + 0.28) / 3)
    assert (result.fallen, result.risen) == (3, 3)
    split = (result.fallen * result.loss + result.risen * result.gain) / 6
    assert result.delta.value == pytest.approx(split)


def test_sequence() -> None:
    full = matrix()
    assert [op_at(full, t).value for t in (1, 2, 3)] == pytest.approx([0.8, 0.8, 2 / 3])
    assert op_final(full).value == pytest.approx((0.5 + 0.6 + 0.9) / 3)
    assert op_mean(full).value == pytest.approx((0.8 + 0.8 + 2 / 3) / 3)
    assert backward_transfer(full).value == pytest.approx(((0.5 - 0.8) + (0.6 - 0.7)) / 2)
    assert backward_transfer(full, over="T").value == pytest.approx(-0.4 / 3)
    assert forward_transfer(full).value == pytest.approx(((0.3 - 0.2) + (0.5 - 0.3)) / 2)
    assert average_forgetting(full).value == pytest.approx(((0.9 - 0.5) + (0.7 - 0.6)) / 2)
    assert learning_accuracy(full).value == pytest.approx((0.8 + 0.7 + 0.9) / 3)


def test_weights_of_eight_tasks() -> None:
    tasks = [f"task{i}" for i in range(8)]
    weights = list(op_mean_weights(ScoreMatrix([], tasks)).values())
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1)
    assert weights[0] == pytest.approx(0.340, abs=5e-4) and weights[-1] == pytest.approx(1 / 64)


def test_standard_errors() -> None:
    full = matrix()
    assert op_final(full).stderr == pytest.approx(0.02 / math.sqrt(3))
    # Cells of one task share their documents, so their errors add; tasks add in squares.
    weights = op_mean_weights(full)
    assert op_mean(full).stderr == pytest.approx(0.02 * math.hypot(*weights.values()))
    # Opposite signs: at most as uncertain as independent scores.
    assert backward_transfer(full).stderr == pytest.approx(0.02 * math.sqrt(4) / 2)
    unknown = matrix(rows=[{"a": Cell(0.5, 1)}, cells(SQUARE[2]), cells(SQUARE[3])])
    assert op_at(unknown, 1).value == 0.5 and op_at(unknown, 1).stderr is None
    assert op_mean(unknown).stderr is None and op_final(unknown).stderr is not None


def test_missing_cells_are_not_zero() -> None:
    lower = [cells({k: row[k] for k in TASKS[:t]}) for t, row in enumerate(SQUARE) if t]
    assert op_mean(matrix(rows=lower)).value == op_mean(matrix()).value
    assert average_forgetting(matrix(rows=lower)).value == average_forgetting(matrix()).value
    assert forward_transfer(matrix(rows=lower)).not_measured == "b after stage 1, c after stage 2"
    assert forward_transfer(matrix(base=False)).value is None
    hole = [lower[0], {"a": None, "b": lower[1]["b"]}, lower[2]]
    assert op_at(matrix(rows=hole), 2).not_measured == "a after stage 2"
    assert average_forgetting(matrix(rows=hole)).not_measured == "a after stage 2"
    assert op_mean(matrix(rows=hole)).value is None
    assert backward_transfer(matrix(rows=hole)).value == backward_transfer(matrix()).value
    interrupted = matrix(rows=lower[:2])
    assert op_at(interrupted, 2).value == pytest.approx(0.8)
    assert op_final(interrupted).not_measured is not None
    assert learning_accuracy(interrupted).not_measured == "c after stage 3"


def test_base_model() -> None:
    summary = summarise([], TASKS, cells(SQUARE[0]), setting="base").to_json()
    assert summary["op_final"]["value"] == pytest.approx(0.2)
    assert summary["op_mean"]["value"] == pytest.approx((0.1 + 0.15 + 0.2) / 3)
    assert [measure["value"] for measure in summary["op"]] == pytest.approx([0.1, 0.15, 0.2])
    for name in ("bwt", "bwt_over_T", "fwt", "forgetting", "learning_accuracy"):
        assert summary[name]["not_measured"] == "the base model was not trained"
    assert summary["matrix"] == [] and summary["base"]["a"]["score"] == 0.1


def test_single() -> None:
    single = matrix("single")
    assert learning_accuracy(single).value == pytest.approx(0.8)
    for measure in (
        op_final(single),
        op_mean(single),
        backward_transfer(single),
        forward_transfer(single),
        average_forgetting(single),
    ):
        assert measure.value is None and "from the base model" in str(measure.not_measured)
    general = [{"piqa": Cell(0.5, 10)}] * 3
    rows = [cells(row) for row in SQUARE[1:]]
    summary = summarise(rows, TASKS, None, general, general[0], setting="single").to_json()
    assert summary["general"][1]["general"]["value"] == 0.5
    assert summary["general_final"]["general"]["value"] is None


def test_joint() -> None:
    joint = matrix("joint", rows=[cells(SQUARE[3])])
    for measure in (op_final(joint), op_mean(joint), learning_accuracy(joint)):
        assert measure.value == pytest.approx(2 / 3)
    for measure in (backward_transfer(joint), forward_transfer(joint), average_forgetting(joint)):
        assert measure.value is None and measure.not_measured
    assert set(op_mean_weights(joint).values()) == {1 / 3}


def test_a_task_that_is_taught_again() -> None:
    """Stages a, b, a, c: OP and FWT from the first visit on, the others from the latest."""
    table = [[0.5, 0.1, 0.2], [0.3, 0.8, 0.2], [0.9, 0.6, 0.4], [0.7, 0.5, 0.6]]
    learned, latest = {"a": 1, "b": 2, "c": 4}, {"a": 3}
    base = cells(dict.fromkeys(TASKS, 0.1))
    rows = [cells(dict(zip(TASKS, row, strict=True))) for row in table]
    again = ScoreMatrix(rows, TASKS, base, learned=learned, latest=latest)
    ops = [op_at(again, stage).value for stage in (1, 2, 3, 4)]
    assert ops == pytest.approx([0.5, 0.55, 0.75, 0.6])
    assert op_mean(again).value == pytest.approx(sum(ops) / 4)
    assert backward_transfer(again).value == pytest.approx(((0.7 - 0.9) + (0.5 - 0.8)) / 2)
    assert average_forgetting(again).value == pytest.approx(((0.9 - 0.7) + (0.8 - 0.5)) / 2)
    assert learning_accuracy(again).value == pytest.approx((0.9 + 0.8 + 0.6) / 3)
    assert forward_transfer(again).value == pytest.approx(((0.1 - 0.1) + (0.4 - 0.1)) / 2)
    last = ScoreMatrix(rows[:3], TASKS[:2], None, latest={"a": 3})
    assert backward_transfer(last).value == pytest.approx(0.6 - 0.8)  # a was taught just now
    summary = summarise(rows, TASKS, learned=learned, latest=latest).to_json()
    assert summary["learned"] == learned and summary["latest"] == latest
    assert "latest" not in summarise(rows, TASKS).to_json()


def test_one_stage() -> None:
    one = ScoreMatrix([cells({"a": 0.5})], ["a"])
    assert op_final(one).value == op_mean(one).value == learning_accuracy(one).value == 0.5
    assert backward_transfer(one).not_measured == "no task was learned before the last stage"
    assert backward_transfer(one, over="T").value is None


def test_stages_that_only_train() -> None:
    """The first and last stage teach nothing that is scored."""
    rows = [{}, cells({"a": 0.8}), cells({"a": 0.6, "b": 0.9}), cells({"a": 0.4, "b": 0.8})]
    some = ScoreMatrix(rows, ["a", "b"], None, "sequential", {"a": 2, "b": 3})
    assert op_at(some, 1).not_measured == "no task learned by stage 1"
    assert op_final(some).value == pytest.approx(0.6)
    assert op_mean(some).value == pytest.approx((0.8 + 0.75 + 0.6) / 3)
    assert backward_transfer(some).value == pytest.approx((-0.4 - 0.1) / 2)
    assert average_forgetting(some).value == pytest.approx((0.4 + 0.1) / 2)


def test_general_is_explicit_about_gaps() -> None:
    base = {"mmlu": Cell(0.5, 100, 0.03), "piqa": Cell(0.7, 100, 0.04)}
    up = general_score({"mmlu": Cell(0.6, 100, 0.03), "piqa": Cell(0.7, 100, 0.04)}, base)
    assert (up.loss, up.fallen, up.risen) == (0.0, 0, 1) and up.gain == pytest.approx(0.1)
    assert up.mean.stderr == pytest.approx(0.025)
    assert up.delta.stderr == pytest.approx(0.025 * math.sqrt(2))
    gap = general_score({"mmlu": Cell(0.6, 100, 0.03), "piqa": None}, base)
    assert gap.mean.not_measured == "piqa after the stage" and gap.loss is None
    without = general_score(base, None)
    assert without.mean.value == pytest.approx(0.6) and without.delta.value is None
    assert without.delta.not_measured == "mmlu, piqa of the base model"
    assert general_score(None, None).mean.not_measured == "General after the stage"
    rows = [cells(row) for row in SQUARE[1:]]
    summary = summarise(rows, TASKS, None, [base, None, base], base).to_json()
    assert summary["general"][1]["general"]["value"] is None
    assert summary["general_final"]["general_delta"]["value"] == 0
    partial = summarise(rows, TASKS, None, [base], base).to_json()
    assert partial["general_final"]["general"]["not_measured"] == "General after stage 3"


def test_summary_is_json_and_plans_comparisons() -> None:
    rows = [cells(row) for row in SQUARE[1:]]
    base = {"piqa": Cell(0.7, 100, 0.04)}
    summary = summarise(rows, TASKS, cells(SQUARE[0]), [base] * 3, base).to_json()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    planned = summary["minimum_detectable_difference"]
    stderr = summary["op_final"]["stderr"]
    assert planned["op_final"]["unpaired"] == pytest.approx(
        2.8016 * math.sqrt(2) * stderr, rel=1e-4
    )
    assert planned["op_final"]["paired"] == pytest.approx(2.8016 * stderr, rel=1e-4)
    assert planned["general"]["unpaired"] == pytest.approx(2.8016 * math.sqrt(2) * 0.04, rel=1e-4)
    without = summarise([{"a": Cell(1, 1)}], ["a"]).to_json()
    assert without["minimum_detectable_difference"]["op_final"] == {
        "unpaired": None,
        "paired": None,
    }


def test_cells() -> None:
    cell = Cell.from_documents([1, 0, 1, 1])
    assert (cell.score, cell.n, cell.stderr) == (0.75, 4, 0.25)
    assert Cell.from_documents([1.0]).stderr is None
    with pytest.raises(ValueError, match="at least one document"):
        Cell.from_documents([])
    labelled = Cell(0.5, 2, None, 0.6, {"A": 1.0})
    assert Cell.from_json({**labelled.to_json(), "metrics": {}}) == labelled
    assert Cell(0.5, 2).to_json() == {"score": 0.5, "n": 2, "stderr": None}


def test_means_of_groups() -> None:
    """MMLU: subjects count the same (TRACE, OpenCompass), or documents do (lm-eval)."""
    subjects = [Cell(0.2, 100, 0.04), Cell(0.5, 300, 0.02)]
    plain, by_size = unweighted_mean(subjects), weighted_mean(subjects)
    assert (plain.score, plain.n) == (pytest.approx(0.35), 400)
    assert plain.stderr == pytest.approx(math.hypot(0.04, 0.02) / 2)
    assert by_size.score == pytest.approx((0.2 * 100 + 0.5 * 300) / 400)
    assert by_size.stderr == pytest.approx(math.hypot(0.04 / 4, 0.02 * 3 / 4))
    assert unweighted_mean([Cell(0.2, 1), Cell(0.4, 9, 0.1)]).stderr is None
    for average in (unweighted_mean, weighted_mean):
        with pytest.raises(ValueError, match="not measured"):
            average([])


def test_numbers_from_scores_files() -> None:
    trace = {"a": {"score": 0.4}, "b": {"score": 0.8}}
    assert operation_score(trace, ["a", "b"]) == pytest.approx(0.6)
    assert operation_score(trace, ["a", "c"]) is None and operation_score(trace, []) is None
    assert general_mean(trace) == pytest.approx(0.6) and general_mean({}) is None


@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_invariants(values: list[float]) -> None:
    rows = [dict(zip(TASKS, values[i : i + 3], strict=True)) for i in (0, 3, 6)]
    some = matrix(rows=[cells(row) for row in rows])
    final, diagonal = op_final(some).value, learning_accuracy(some).value
    bwt, forgetting = backward_transfer(some).value, average_forgetting(some).value
    assert None not in (final, diagonal, bwt, forgetting)
    # The last row is the diagonal plus what came back, and forgetting is at least the loss.
    assert final == pytest.approx(diagonal + bwt * 2 / 3)
    assert forgetting >= -bwt - 1e-12
    assert 0 <= op_mean(some).value <= 1

"""The tables about General, from scores as `scores.json` has them."""

from __future__ import annotations

from cl_bench.report.as_markdown import markdown
from cl_bench.report.general import general_tables, made_with


def entry(score: float, **more):
    return {"score": score, "stderr": 0.01, "n": 100, "metrics": {}, **more}


def measured(**changes):
    how = {"protocol": "lm-eval", "harness": "lm-evaluation-harness", "harness_version": "0.4.13"}
    task = {"task": "mmlu_*", "task_version": "1.0", "split": "test", "shots": "5"}
    return {**how, **task, "metric": "acc", **changes}


def rows(base):
    lines = markdown(list(general_tables({"general": base}, [])), None, screen=False)
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]


def test_weighted_and_strict_stand_beside_the_scores():
    strict = {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.2}
    base = {
        "mmlu": entry(0.25, weighted=0.26, measured=measured()),
        "gsm8k": entry(0.2, metrics=strict),
        "mean": 0.225,
    }
    found = rows(base)
    assert found[0] == ["method", "mmlu", "mmlu, weighted by documents", "gsm8k", "gsm8k, strict"]
    assert found[2] == ["ori (base)", "25.0 ± 1.0", "26.0", "20.0 ± 1.0", "10.0"]
    assert found[5] == [
        *("mmlu", "lm-eval", "lm-evaluation-harness 0.4.13", "mmlu_*", "1.0", "test", "5"),
        *("acc", "100"),
    ]
    assert found[6] == ["gsm8k", *["not recorded"] * 7, "100"], "scores of an older cl-bench"


def test_every_harness_version_is_named():
    found = {
        "mmlu": entry(0.2, measured=measured()),
        "bbh": entry(0.2, measured=measured(protocol="opencompass-2023")),
        "piqa": entry(0.2),
    }
    assert made_with(found) == (
        "lm-evaluation-harness 0.4.13, protocol opencompass-2023, version of the harness "
        "not recorded"
    )
    assert made_with({}) == "no harness"
    assert rows({}) == []

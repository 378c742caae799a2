"""Stages from files: run, read again, continued, moved; rows that change are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Bench


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"prompt": f"{i} + 1?", "response": str(i + 1)} for i in range(start, start + count)]


def chats(count: int) -> list[dict[str, Any]]:
    def chat(i: int) -> list[dict[str, str]]:
        said = ("Be brief.", f"Say {i}", "Why?", "Because", f"It is {i}.\nReally.")
        roles = ("system", "user", "assistant", "user", "assistant")
        return [
            {"role": role, "content": text}
            for role, text in zip(roles, [*said[:2], "What?", "Come on", said[4]], strict=True)
        ]

    return [{"messages": chat(i)} for i in range(count)]


STAGES: list[dict[str, Any]] = [
    {"data": "rows/jan.jsonl", "test": "rows/jan_test.jsonl"},
    {"data": "rows/feb.json", "holdout": 0.25, "metrics": ["rouge_l", "contains"]},
]


@pytest.fixture
def months(bench: Bench) -> Bench:
    """The bench with two months of its own."""
    write_rows(bench.root / "rows/jan.jsonl", pairs(10))
    write_rows(bench.root / "rows/jan_test.jsonl", pairs(6, start=8))
    (bench.root / "rows/feb.json").write_text(json.dumps(chats(8)))
    train = {"lr": 1e-3, "batch_size": 4, "max_prompt_tokens": 96, "max_answer_tokens": 24}
    evaluation = {"trace": {"limit": 4}, "general": {"tasks": ["piqa"], "limit": 2}}
    bench.write_config(stages=STAGES, methods=["sft"], train=train, eval=evaluation)
    return bench


def test_files_are_stages_like_any_other(months: Bench) -> None:
    bench = months
    out = bench.must("plan", "tiny.yaml")
    for facts in (
        "jan.jsonl: JSON lines of the form prompt/response; 10 rows trained on, 6 scored (",
        "feb.json: a JSON list of the form messages; 6 rows trained on, 2 scored (holdout: 0.25)",
        "by exact_match",
        "by rouge_l",
        "jan: 2 of 6 scored prompts are trained on too",
        "FLOP training",
    ):
        assert facts in out
    bench.trained()
    run = bench.results / "sft/seed-1"
    scores = json.loads((run / "stage-2-feb/scores.json").read_text())
    assert list(scores["trace"]) == ["jan", "feb"]
    assert scores["trace"]["feb"]["metrics"].keys() == {"rouge_l", "contains"}
    nll = scores["probes"]["trace"]
    assert {"jan", "feb"} == nll.keys() and all("nll" in json.dumps(each) for each in nll.values())
    records = [
        json.loads(line)
        for line in (run / "stage-2-feb/predictions/jan.jsonl").read_text().splitlines()
    ]
    assert {r["target"] for r in records} <= {str(i) for i in range(9, 15)}

    shown = bench.must("diff", "base", "sft/seed-1/stage-2", "--task", "feb", "--json")
    assert json.loads(shown)
    out = bench.must("eval", "tiny", "--stage", "2", "--task", "feb")
    assert Path(out.splitlines()[-1]).is_file()
    bench.must("verify", "tiny")

    (bench.root / "rows/jan.jsonl").rename(bench.root / "rows/january.jsonl")
    moved = [{"data": "rows/january.jsonl", "task": "jan", "test": "rows/jan_test.jsonl"}]
    bench.write_config(stages=[*moved, STAGES[1]])
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 0 and "training" not in err  # the same rows in another place

    write_rows(bench.root / "rows/january.jsonl", [*pairs(9), {"prompt": "9", "response": "8"}])
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 2 and "jan" in err and "train" in err


def test_a_month_comes_again_after_another(months: Bench) -> None:
    bench = months
    bench.trained()
    more = {"data": "rows/jan_test.jsonl", "holdout": 1}
    bench.write_config(stages=[STAGES[0], more])
    planned = bench.must("plan", "tiny.yaml", "-o", "name=other")
    assert "jan: 5 of 6 scored prompts are trained on in jan_test" in planned
    bench.write_config(stages=[*STAGES, {"task": "jan"}, {"task": "feb", "lr": 1e-4}])
    before = (bench.results / "base/scores.json").read_bytes()
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 0, err
    assert "stage 3/4 jan: training" in err and "stage 2/4 feb: training" not in err
    assert (bench.results / "base/scores.json").read_bytes() == before
    scores = json.loads((bench.results / "sft/seed-1/stage-4-feb/scores.json").read_text())
    assert list(scores["trace"]) == ["jan", "feb"]

"""`ori` with shots: a row of its own, from the config to the report."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from cl_bench.data.in_context import LEAD
from cl_bench.scores.uncertainty import mean
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.read import lines_of, scores_of
from tests.helpers.rendered import must_render

MINI: dict[str, Any] = {
    "methods": ["ori", {"name": "ori", "shots": [1, 3]}, "sft"],
    "seeds": [1, 2],
    "stages": [{"task": "mini_fomc", "limit": 24}, {"task": "mini_numglue_cm", "limit": 24}],
    "train": {"lr": 1e-3, "batch_size": 8, "max_prompt_tokens": 120, "max_answer_tokens": 8},
    "eval": {"trace": {"limit": 6}, "general": {"tasks": ["piqa"], "limit": 4}},
}

ROW = {"name": "ori", "shots": 2, "label": "with examples"}
ONE = MINI | {"seeds": [1], "methods": [ROW]}


def test_a_row_with_examples_is_scored_once_and_stands_in_every_table(bench: Bench) -> None:
    bench.write_config(**MINI | {"methods": MINI["methods"][:2]})
    out = bench.must("run", "tiny.yaml")
    must_render(out)
    full = bench.report()
    must_render(full)
    for label in ("ori (base)", "ori 1-shot", "ori 3-shot"):
        assert f"|{label} " in out.replace("| ", "|") and f"| {label} " in full
    section = full.split("## Examples in the prompt")[1].split("\n## ")[0]
    folders = {f"ori-{n}-shot/seed-{seed}": (n, seed) for n in (1, 3) for seed in (1, 2)}
    base = bench.results / "base"
    for name, (asked, seed) in folders.items():
        place = bench.results / name
        scores = scores_of(place)
        assert scores["settings"]["seed"] == seed and scores["probes"] == {}
        assert scores["settings"]["in_context"]["shots"] == asked
        assert not (place / "run.json").exists() and not list(place.glob("stage-*"))
        for task, entry in scores["trace"].items():
            records = lines_of(place / "predictions" / f"{task}.jsonl")
            plain = lines_of(base / "predictions" / f"{task}.jsonl")
            assert [r["prompt_hash"] for r in records] == [r["prompt_hash"] for r in plain]
            assert entry["score"] == mean([r["score"] for r in records])
            assert entry["shots"]["asked"] == asked == len(entry["shots"]["examples"])
            assert entry["shots"]["mean"] == mean([r["shots"] for r in records]) <= asked
        assert f"| ori {asked}-shot seed-{seed} " in section
    drawn = {
        name: scores_of(bench.results / name)["trace"]["mini_fomc"]["shots"] for name in folders
    }
    assert len({tuple(shots["examples"]) for shots in drawn.values()}) == 4
    complete = fingerprints(bench.results)
    assert bench.must("run", "tiny.yaml") == out
    assert fingerprints(bench.results) == complete
    verified = bench.must("verify")
    assert "no record names it" not in verified and "not finished" not in verified
    compared = bench.must("diff", "base", "ori-3-shot/seed-1", "--task", "mini_fomc")
    assert "mini_fomc" in compared and "6" in compared
    code, _, err = bench.run("eval", "--stage", "1", "--method", "ori 3-shot")
    assert code == 2 and "has no stages" in err


def test_the_row_alone_needs_no_training_and_is_chosen_by_name(bench: Bench) -> None:
    bench.write_config(**MINI | {"seeds": [1]})
    assert "| ori 1-shot " in bench.must("run", "tiny.yaml", "--method", "ori 1-shot")
    assert {place.name for place in bench.results.iterdir() if place.is_dir()} == {
        "base",
        "ori-1-shot",
    }
    before = fingerprints(bench.results / "ori-1-shot")
    bench.must("run", "tiny.yaml", "--method", "ori")
    assert (bench.results / "ori-3-shot").is_dir() and not (bench.results / "sft").exists()
    assert fingerprints(bench.results / "ori-1-shot") == before


def test_a_task_that_is_appended_is_added_to_the_row(bench: Bench) -> None:
    bench.write_config(**ONE)
    bench.trained()
    place = bench.results / "with-examples" / "seed-1"
    before = scores_of(place)["trace"]
    compared = bench.must("diff", "base", "with-examples", "--task", "mini_numglue_cm")
    assert "| mini_numglue_cm |" in compared and "with-examples/seed-1" in compared
    bench.write_config(stages=[*MINI["stages"], {"task": "mini_numglue_ds", "limit": 24}])
    bench.must("run", "tiny.yaml")
    after = scores_of(place)["trace"]
    assert list(after) == [*before, "mini_numglue_ds"]
    assert {task: after[task] for task in before} == before


def test_other_examples_under_the_same_label_are_refused(bench: Bench) -> None:
    bench.write_config(**ONE)
    bench.trained()
    bench.write_config(methods=[{**ROW, "shots": 3}])
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and "in_context.shots: was 2, is 3 (with-examples/seed-1)" in err


def test_a_damaged_row_is_refused_and_an_unfinished_one_goes_on(bench: Bench) -> None:
    bench.write_config(**ONE)
    bench.trained()
    place = bench.results / "with-examples" / "seed-1"
    whole = fingerprints(bench.results)
    (place / "scores.json").unlink()
    bench.must("run", "tiny.yaml")
    assert fingerprints(bench.results) == whole
    records = place / "predictions" / "mini_fomc.jsonl"
    records.write_text(records.read_text().replace('"shots"', '"shot"'))
    code, _, err = bench.run("report")
    assert code == 1 and "mini_fomc.jsonl: not as it was written" in err
    code, out, _ = bench.run("verify")
    assert code == 1 and "mini_fomc.jsonl" in out


@pytest.mark.parametrize(
    ("row", "changes", "fault"),
    [
        ({"shots": 0}, {}, "shots: "),
        ({"shots": []}, {}, "the list is empty"),
        ({"shots": 2, "shot": 3}, {}, "shot: unknown key (did you mean 'shots'?)"),
        ({"shots": 2, "lr": 1e-3}, {}, "lr: unknown key"),
        ({"layout": "plain"}, {}, "the base model takes no layout"),
        ({"shots": 40}, {}, "shots: 40 needs as many"),
        ({"shots": 2, "max_prompt_tokens": 9999}, {}, "more than the model's window of"),
        (
            {"shots": 2},
            {"eval": {"trace": {"after": "never"}, "general": {"tasks": ["piqa"]}}},
            "eval.trace.after: never scores no stage task",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_paid_for(
    bench: Bench, row: dict[str, Any], changes: dict[str, Any], fault: str
) -> None:
    bench.write_config(**MINI | {"methods": [{"name": "ori", **row}, "sft"]} | changes)
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and fault in err, (command, err)
    assert not bench.results.exists()


def test_prompts_that_do_not_fit_have_fewer_examples_and_the_report_counts_them(
    bench: Bench,
) -> None:
    row = {"name": "ori", "shots": 3, "max_prompt_tokens": 420}
    bench.write_config(**MINI | {"seeds": [1], "methods": [row]})
    bench.must("run", "tiny.yaml")
    out = bench.report()
    shots = scores_of(bench.results / "ori-3-shot" / "seed-1")["trace"]["mini_fomc"]["shots"]
    assert shots["mean"] < 3 and shots["documents_with_fewer"] > 0
    assert f" {shots['documents_with_fewer']} of 6 | " in out


def test_plan_says_what_the_prompts_come_to(bench: Bench) -> None:
    bench.write_config(methods=["sft", {"name": "ori", "shots": 2}])
    data = bench.root / "data" / "trace" / "FOMC"
    rows = [{"prompt": f"Other {i}\nStance:", "answer": "ABC"[i % 3]} for i in range(12)]
    (data / "train.json").write_text(json.dumps(rows))
    data = bench.root / "data" / "trace" / "NumGLUE-ds"
    rows = [{"prompt": f"{i} + 5\nAnswer:", "answer": str(i + 5)} for i in range(12)]
    (data / "train.json").write_text(json.dumps(rows))
    code, out, err = bench.run("plan", "tiny.yaml")
    assert code == 0, err
    assert "ori 2-shot, seed 1: the base model, scored once; nothing is trained" in out
    assert "trace_fomc: some " in out and " tokens of examples before every prompt, " in out
    assert "FLOP for 6 documents" in out
    (found,) = re.findall(r"trace_fomc: (\d+) tokens a prompt, (\d+) without examples", out)
    longer = len(LEAD) + 2 * len("Other 0\nStance:A\n\n")  # or Other 10
    assert int(found[0]) - int(found[1]) == pytest.approx(longer, abs=2)

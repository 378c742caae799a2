"""GLUE's tasks as lm-eval has them, and others whose metrics are no numbers per document."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
import yaml
from sklearn.metrics import f1_score, matthews_corrcoef

import cl_bench.evaluation.aggregates as aggregates
from cl_bench.store.folders import read_json, read_records
from tests.e2e.conftest import Bench

OWN = """
def right(items):
    return sum(gold == answer for gold, answer in items) / len(items)

def nearness(doc, results):
    return {"nearness": 100.0 / (1 + abs(results[0][0])), "steps": float(doc["idx"])}

def fluent(doc, results):
    return {"fluent": float(results[0] > -1e9), "word_perplexity": (results[0], 3)}
"""


def write_yaml(bench: Bench, name: str, rows: int, metrics: list[Any], **keys: Any) -> None:
    """A task of two labels in the folder `tasks`, beside its rows."""
    folder = bench.root / "tasks"
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(OWN)
    # Uneven labels, so that a constant answer has a better F1 one way than the other.
    lines = [{"sentence": f"s{i} {name}", "label": int(i % 3 > 0), "idx": i} for i in range(rows)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = {split: str(folder / f"{name}.jsonl") for split in ("train", "validation")}
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "output_type": "multiple_choice",
        "training_split": "train",
        "validation_split": "validation",
        "doc_to_text": "{{sentence}}\nAnswer:",
        "doc_to_target": "label",
        "doc_to_choice": ["no", "yes"],
        "metric_list": metrics,
        "metadata": {"version": 1.0},
    }
    text = yaml.safe_dump(config | keys).replace("'!function ", "!function '")
    (folder / f"{name}.yaml").write_text(text)


def config_of(bench: Bench, **changes: Any) -> None:
    bench.write_config(
        methods=["sft", "fggm"],
        task_paths=["tasks"],
        stages=[{"task": "cola2", "epochs": 1}, {"task": "mrpc2", "epochs": 1}],
        eval={"trace": {"limit": None}, "general": {"tasks": ["wording"]}},
        **changes,
    )


@pytest.fixture
def glue(bench: Bench) -> Bench:
    """CoLA and MRPC in small with lm-eval's own metric lists; a translation task as General."""
    write_yaml(bench, "cola2", 30, [{"metric": "mcc"}])
    write_yaml(bench, "mrpc2", 24, [{"metric": "acc"}, {"metric": "f1"}])
    words = {"output_type": "generate_until", "doc_to_target": "sentence", "doc_to_choice": None}
    until = {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}}
    lists = [{"metric": name} for name in ("ter", "bleu", "chrf")]
    write_yaml(bench, "wording", 6, lists, **words, **until)
    config_of(bench)
    return bench


def pairs_of(place: Path, task: str) -> tuple[list[int], list[int]]:
    records = read_records(place / "predictions" / f"{task}.jsonl")
    return [r["target"] for r in records], [r["choice"] for r in records]


def test_glue_end_to_end(glue: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregates, "MOST_RESAMPLES", 25)  # milliseconds each, of every metric
    plan = glue.must("plan", str(glue.config))
    assert "cola2: its score is mcc (a number of all documents together, -1 to 1)" in plan
    assert "wording: its score is bleu" in plan and "ter, listed first, is not taken" in plan
    code, out, err = glue.run("run", str(glue.config))
    assert code == 0, err
    assert "cola2: its score is mcc" in out + err
    last = glue.results / "sft" / "seed-1" / "stage-2-mrpc2"
    for place in (glue.results / "base", last):
        _check_scores(place)
    _check_report(glue, last)
    _check_diff(glue)


def _check_scores(place: Path) -> None:
    scores = read_json(place / "scores.json")
    cola, mrpc = scores["trace"]["cola2"], scores["trace"]["mrpc2"]
    gold, chosen = pairs_of(place, "cola2")
    assert cola["score"] == pytest.approx(matthews_corrcoef(gold, chosen))
    assert (cola["metric"], cola["aggregation"]) == ("mcc", "matthews_corrcoef")
    assert cola["metrics"] == {"mcc": cola["score"]}
    assert cola["majority"] == 0.0 and sum(cola["labels"].values()) == pytest.approx(1)
    assert cola["stderr"] == pytest.approx(stdev(cola["resamples"]))
    gold, chosen = pairs_of(place, "mrpc2")
    assert (mrpc["metric"], mrpc["aggregation"]) == ("acc", "mean")
    assert mrpc["metrics"]["f1"] == pytest.approx(f1_score(gold, chosen))
    assert mrpc["metrics"]["acc"] == mrpc["score"] and mrpc["metrics_stderr"].keys() == {"f1"}
    words = scores["general"]["wording"]
    assert words["metrics"].keys() == {"ter", "bleu", "chrf"}
    assert (words["metric"], words["scale"]) == ("bleu", 100.0)
    assert words["score"] == words["metrics"]["bleu"] / 100
    assert words["measured"]["metric"] == "bleu"


def _check_report(glue: Bench, last: Path) -> None:
    report = glue.report()
    assert "- mcc, matthews_corrcoef of all documents together, -100 to 100" in report
    assert "- acc, mean over documents: mrpc2" in report
    assert "- bleu / 100, bleu of all documents together: wording" in report
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in report.splitlines()]
    shown = {(row[0], row[1]): row for row in rows if len(row) == 5}
    f1 = read_json(last / "scores.json")["trace"]["mrpc2"]["metrics"]["f1"]
    assert shown["mrpc2", "f1"][3].startswith(f"{f1:.4g}")
    assert ("wording", "ter") in shown and ("mrpc2", "acc") not in shown
    differences = [row for row in rows if len(row) == 5 and row[1] == "sft - fggm"]
    assert {"General", "OP final"} <= {row[0] for row in differences}
    summary = read_json(last.parent / "summary.json")
    both = read_json(last / "scores.json")["trace"]
    assert summary["op_final"]["value"] == pytest.approx(
        (both["cola2"]["score"] + both["mrpc2"]["score"]) / 2
    )
    assert summary["bwt"]["stderr"] is not None


def _check_diff(glue: Bench) -> None:
    found = json.loads(
        glue.must("diff", "tiny/base", "tiny/sft/seed-1/stage-2", "--task", "cola2", "--json")
    )["tasks"]["cola2"]
    places = [glue.results / "base", glue.results / "sft" / "seed-1" / "stage-2-mrpc2"]
    cells = [read_json(place / "scores.json")["trace"]["cola2"] for place in places]
    assert (found["a"], found["b"]) == (cells[0]["score"], cells[1]["score"])
    difference = found["difference"]
    assert difference["difference"] == pytest.approx(cells[1]["score"] - cells[0]["score"])
    paired = [b - a for a, b in zip(*(cell["resamples"] for cell in cells), strict=True)]
    assert difference["stderr"] == pytest.approx(stdev(paired))
    assert found["n"] == 30 and difference["n"] == {"cola2": 30}


def test_what_is_no_score_ends_before_anything_is_paid_for(bench: Bench) -> None:
    write_yaml(bench, "cola2", 6, [{"metric": "brier_score"}])
    steps = {"metric": "steps", "aggregation": "mean", "higher_is_better": True}
    near = {"metric": "nearness", "aggregation": "mean", "higher_is_better": True}
    write_yaml(bench, "mrpc2", 6, [steps], process_results="!function own.nearness")
    rolling = {"output_type": "loglikelihood_rolling", "doc_to_choice": None}
    target = {"doc_to_target": "sentence", "doc_to_text": ""}
    write_yaml(bench, "wording", 6, [{"metric": "word_perplexity"}], **rolling, **target)
    config_of(bench)
    for command in ("plan", "run"):
        code, out, err = bench.run(command, str(bench.config))
        assert code == 2, out
        assert "cola2: none of its metrics can be its score (brier_score: lower is better)" in err
        assert "steps is 2, not from 0 to 1" in err
        assert "wording: none of its metrics can be its score (word_perplexity: lower" in err
        assert not bench.results.exists()
    # Mended: named, with a scale, and a metric that is a score beside the perplexity.
    write_yaml(
        bench,
        "cola2",
        6,
        [{"metric": "mcc", "aggregation": "!function own.right"}],
        metadata={"headline": "mcc"},
    )
    write_yaml(
        bench,
        "mrpc2",
        6,
        [steps, near],
        process_results="!function own.nearness",
        metadata={"headline": "nearness", "scale": 100},
    )
    fluent = {"metric": "fluent", "aggregation": "mean", "higher_is_better": True}
    write_yaml(
        bench,
        "wording",
        6,
        [{"metric": "word_perplexity"}, fluent],
        **rolling,
        **target,
        process_results="!function own.fluent",
    )
    bench.must("run", str(bench.config))
    scores = read_json(bench.results / "base" / "scores.json")
    cola, mrpc, words = (
        scores["trace"]["cola2"],
        scores["trace"]["mrpc2"],
        scores["general"]["wording"],
    )
    assert (cola["aggregation"], cola.get("scale", 1)) == ("right", 1)
    assert mrpc["score"] == pytest.approx(mrpc["metrics"]["nearness"] / 100)
    assert mrpc["metrics"]["steps"] == 2.5
    assert words["metric"] == "fluent" and words["metrics"]["word_perplexity"] > 1
    assert "nearness / 100, mean over documents" in bench.report()


def test_a_value_that_only_a_model_gives_ends_at_the_first_scored_task(bench: Bench) -> None:
    # Gold and wrong answers are within 0 to 1; what a model's likelihoods give is not.
    write_yaml(bench, "cola2", 6, [{"metric": "acc"}])
    wild = (
        "\ndef wild(doc, results):\n    return {'wild': float(len(str(results[0][0])) > 6) * 9}\n"
    )
    keys = {"metric": "wild", "aggregation": "mean", "higher_is_better": True}
    write_yaml(bench, "mrpc2", 6, [keys], process_results="!function own.wild")
    (bench.root / "tasks" / "own.py").write_text(OWN + wild)
    write_yaml_general = {"eval": {"trace": {"limit": None}, "general": {"after": "never"}}}
    bench.write_config(
        methods=["sft"], task_paths=["tasks"], stages=[{"task": "mrpc2"}], **write_yaml_general
    )
    (bench.root / "tasks" / "own.py").write_text(OWN + wild)
    code, _, err = bench.run("run", str(bench.config))
    assert code == 2 and "mrpc2: document 0: wild is 9, not from 0 to 1" in err
    assert not list(bench.results.rglob("train.jsonl"))

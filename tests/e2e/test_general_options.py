"""`eval.general` as a user writes it: protocols, limits, budgets, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_bench.store.seals import write_sealed
from tests.helpers.read import scores_of


def general(bench, **options) -> None:
    options.setdefault("tasks", ["piqa"])
    bench.write_config(
        eval={"trace": {"limit": 2}, "general": options},
        methods=["sft"],
        stages=[{"task": "FOMC", "limit": 4}],
    )


def scores(bench, place: str = "base"):
    return scores_of(bench.results / place)


def test_protocols_are_recorded_reported_and_never_mixed(bench):
    general(bench, protocol="opencompass-2023", limit={"piqa": 4})
    code, _, err = bench.run("run", bench.config)
    assert code == 0, err
    entry = scores(bench)["general"]["piqa"]
    assert entry["n"] == 4
    how = entry["measured"]
    assert (how["protocol"], how["task"]) == ("opencompass-2023", "opencompass_piqa")
    after = json.loads((bench.results / "sft/seed-1/stage-1-trace_fomc/scores.json").read_text())
    assert after["general"]["piqa"]["measured"] == how
    record = json.loads((bench.results / "sft/seed-1/run.json").read_text())
    assert record["config"]["eval"]["general"] == {
        "after": "every",
        "tasks": ["piqa"],
        "protocol": "opencompass-2023",
        "limit": {"piqa": 4},
    }
    general(bench, limit={"piqa": 4})
    code, _, err = bench.run("run", bench.config)
    assert code == 2
    assert 'eval.general.protocol: was "opencompass-2023", is "lm-eval"' in err


def test_the_report_says_what_was_recorded_not_what_is_installed(bench):
    general(bench, protocol="opencompass-2023")
    assert bench.run("run", bench.config)[0] == 0
    file = bench.results / "base" / "scores.json"
    data = json.loads(file.read_text())
    data["general"]["piqa"]["measured"]["harness_version"] = "0.0.1"
    write_sealed(file, data)
    assert bench.run("report", bench.results, "--full")[0] == 0
    report = (bench.results / "report-full.md").read_text()
    assert "lm-evaluation-harness 0.0.1, protocol opencompass-2023, engine `cl-bench`" in report
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.splitlines()]
    assert [
        "piqa",
        "opencompass-2023",
        "lm-evaluation-harness 0.0.1",
        "opencompass_piqa",
        "1.0",
        "validation",
        "0",
        "acc",
        "6",
    ] in lines
    assert ["method", "piqa"] in lines
    assert {"ori (base)", "sft"} <= {line[0] for line in lines if len(line) == 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit: 0 documents give no score: 1 or more"),
        ({"limit": {"piqa": 0}}, "piqa: 0 documents give no score"),
        ({"limit": {"pica": 3}}, "limit: pica is not in tasks: (did you mean 'piqa'?)"),
        ({"limit": 3, "budget": "quick"}, "budget and limit both say"),
        ({"budget": "small"}, "'quick', 'standard' or 'full'"),
        ({"protocol": "opencompass"}, "'lm-eval' or 'opencompass-2023'"),
        (
            {"protocol": "opencompass-2023", "tasks": ["hellaswag", "mini_mmlu"]},
            "mini_mmlu: the protocol opencompass-2023 does not define it",
        ),
    ],
)
def test_wrong_options_are_refused(bench, options, message):
    general(bench, **options)
    code, _, err = bench.run("run", bench.config)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not bench.results.exists()


def test_a_budget_gives_way_to_the_limit_of_eval_which_is_not_0(bench):
    general(bench, budget="quick")
    assert bench.run("run", bench.config)[0] == 0
    assert scores(bench)["general"]["piqa"]["n"] == 6, "all there are"
    command = ("eval", bench.results, "--stage", "1", "--task", "piqa", "--limit")
    code, out, err = bench.run(*command, "3")
    assert code == 0, err
    assert json.loads(Path(out.strip()).read_text())["general"]["piqa"]["n"] == 3
    code, _, err = bench.run(*command, "0")
    assert code == 2
    assert "--limit" in err


def test_a_missing_or_wrong_benchmark_file_is_named(bench, monkeypatch):
    def no_hub(**hub):
        raise OSError("no network in tests")

    monkeypatch.setattr("datasets.load_dataset", no_hub)
    general(bench)
    file = bench.root / "data/general/piqa/test.jsonl"
    file.write_text(json.dumps({"goal": "g", "sol1": "a", "label": 2}) + "\n")
    code, _, err = bench.run("run", bench.config)
    assert code == 2
    assert "line 1: field 'sol2': missing" in err
    assert "line 1: field 'label': not one of 0, 1" in err
    file.unlink()
    code, _, err = bench.run("run", bench.config)
    assert code == 2
    assert f"{file}: not found" in err
    assert "cl-bench data get general" in err

"""General by the word `practical`: what ships is scored, what is missing is refused."""

from __future__ import annotations

from tests.e2e.conftest import Bench
from tests.helpers.read import lines_of, scores_of


def test_the_sets_of_this_project_are_scored(bench: Bench) -> None:
    tasks = ["json_format", "over_refusal"]
    bench.write_config(
        methods=["sft"],
        stages=[{"task": "FOMC", "limit": 4}],
        eval={"trace": {"limit": 2}, "general": {"tasks": tasks, "limit": 3}, "probes": False},
    )
    bench.must("run", "tiny.yaml")
    scores = scores_of(bench.results / "base")["general"]
    assert [scores[name]["n"] for name in tasks] == [3, 3]
    records = lines_of(bench.results / "base/predictions/general_over_refusal.jsonl")
    assert all(isinstance(record["prediction"], str) for record in records)
    assert "json_format" in bench.must("report", "tiny")


def test_practical_without_its_data_is_refused(bench: Bench) -> None:
    bench.write_config(eval={"general": "practical"})
    code, out, err = bench.run("plan", "tiny.yaml")  # which may be made where the data is not
    assert code == 0 and "ifeval" in out + err, out
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 2 and "ifeval" in err and "gsm8k" in err and "json_format" not in err

"""HumanEval from the command line: refused without being allowed, else scored."""

from __future__ import annotations

import json
import sys

import pytest
from lm_eval.api.model import LM

from cl_bench.data.loading import load_task_set
from cl_bench.evaluation.harness import evaluate_tasks
from tests.e2e.conftest import Bench

pytestmark = pytest.mark.skipif(
    sys.platform == "win32",
    reason="Windows cannot limit a process, so cl-bench refuses to run programs there",
)


def problem(number: int) -> dict[str, str]:
    return {
        "task_id": f"Invented/{number}",
        "prompt": f"def plus_{number}(x):\n",
        "entry_point": f"plus_{number}",
        "canonical_solution": f"    return x + {number}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {number + 1}\n",
    }


@pytest.fixture
def humaneval(bench: Bench) -> Bench:
    folder = bench.root / "data" / "code" / "humaneval"
    folder.mkdir(parents=True)
    lines = [json.dumps(problem(number)) + "\n" for number in (1, 2)]
    (folder / "test.jsonl").write_text("".join(lines))
    bench.write_config(eval={"trace": {"after": "never"}, "general": {"tasks": ["humaneval"]}})
    return bench


def test_it_needs_to_be_allowed(humaneval: Bench) -> None:
    code, _, err = humaneval.run("run", "tiny.yaml")
    assert code == 2 and "general_humaneval: runs programs" in err
    assert "--allow-code-execution" in err and not humaneval.results.exists()


def test_plan_and_tasks_need_no_permission(humaneval: Bench) -> None:
    assert "humaneval" in humaneval.must("plan", "tiny.yaml")
    assert "general_humaneval" in humaneval.must("tasks")


def test_permission_is_never_a_key_of_the_config(humaneval: Bench) -> None:
    for key in ("allow_code_execution", "eval.allow_code_execution"):
        code, _, err = humaneval.run("run", "tiny.yaml", "-o", f"{key}=true")
        assert code == 2 and "allow_code_execution" in err


def test_a_random_model_passes_nothing(humaneval: Bench) -> None:
    run = ["run", "tiny.yaml", "--method", "sft", "-o", "eval.general.after=last"]
    humaneval.must(*run, "--allow-code-execution")
    scores = json.loads((humaneval.results / "base" / "scores.json").read_text())
    entry = scores["general"]["humaneval"]
    assert (entry["score"], entry["n"]) == (0.0, 2) and "timeout" in entry["metrics"]
    assert "allow" not in (humaneval.results / "experiment.json").read_text()
    rescore = ["eval", "results/tiny", "--stage", "2", "--task", "humaneval"]
    code, _, err = humaneval.run(*rescore)
    assert code == 2 and "--allow-code-execution" in err
    humaneval.must(*rescore, "--allow-code-execution")


class Programmer(LM):
    """Solves the first problem and gets the second one wrong."""

    def generate_until(self, requests, disable_tqdm=False):
        return ["    return x + 1\n" for _ in requests]

    def loglikelihood(self, requests, disable_tqdm=False):
        raise AssertionError

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise AssertionError


def test_answers_are_run_with_the_checks(humaneval: Bench) -> None:
    task = load_task_set(["general_humaneval"], humaneval.root / "data").tasks["general_humaneval"]
    found = evaluate_tasks(Programmer(), {"humaneval": task}, {"humaneval": [0, 1]})["humaneval"]
    assert [record["score"] for record in found.records] == [1.0, 0.0]
    assert [record["reason"] for record in found.records] == ["passed", "AssertionError"]
    assert found.cell.score == 0.5 and found.metrics == {"timeout": 0.0}

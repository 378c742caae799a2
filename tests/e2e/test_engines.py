"""`--engine` and `--engine-args`, as a user gives them."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import Bench
from tests.helpers.forked import fork_workers
from tests.helpers.read import scores_of


def predictions(folder: Path) -> dict[str, str]:
    files = sorted((folder / "predictions").glob("*.jsonl"))
    return {file.name: file.read_text() for file in files if ".probes." not in file.name}


def assert_close(mine: dict[str, str], theirs: dict[str, str]) -> None:
    """Equal but for the rounding of merging an adapter into its weights."""
    assert mine.keys() == theirs.keys()
    for name in mine:
        for a, b in zip(mine[name].splitlines(), theirs[name].splitlines(), strict=True):
            one, other = json.loads(a), json.loads(b)
            likelihoods = one.pop("loglikelihoods", []), other.pop("loglikelihoods", [])
            assert likelihoods[0] == pytest.approx(likelihoods[1], abs=1e-4)
            assert one == other


def test_a_missing_package_is_named_before_anything_starts(bench: Bench) -> None:
    code, _, err = bench.run("run", "tiny.yaml", "--engine", "vllm")
    assert code == 2 and "pip install 'lm_eval[vllm]'" in err
    assert not bench.results.exists()


def test_an_unknown_argument_is_named_before_anything_starts(bench: Bench) -> None:
    arguments = ["--engine", "hf", "--engine-args", "batchsize=3"]
    code, _, err = bench.run("run", "tiny.yaml", *arguments)
    assert code == 2 and "did you mean 'batch_size'?" in err
    assert not bench.results.exists()


def test_a_worker_that_fails_fails_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_workers(monkeypatch)
    arguments = ["--engine", "hf", "--engine-args", "subprocess=true,dtype=float99"]
    code, _, err = bench.run("run", "tiny.yaml", *arguments)
    assert code == 1 and "float99" in err and "the last lines it wrote" in err
    assert not (bench.results / "base" / "scores.json").exists()
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not any("cl_bench.evaluation.engines.worker" in line for line in left)


def test_scores_inside_a_stage_need_the_model_in_memory(bench: Bench) -> None:
    subprocess_hf = ["--engine", "hf", "--engine-args", "subprocess=true"]
    code, _, err = bench.run("run", "tiny.yaml", "-o", "eval.within_stage=epoch", *subprocess_hf)
    assert code == 2 and "eval.within_stage" in err and "subprocess=True" in err


def test_checkpoints_and_adapters_are_scored_in_a_subprocess(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fork_workers(monkeypatch)
    bench.write_config(
        methods=["lora"], stages=[{"task": "FOMC", "limit": 8}, {"task": "trace_numglue_ds"}]
    )
    trace_last = ["-o", "eval.trace.after=last", "-o", "eval.general.after=last"]
    bench.must("run", "tiny.yaml", *trace_last, "-o", "name=here", "--engine", "hf")
    subprocess_hf = ["--engine", "hf", "--engine-args", "subprocess=true"]
    bench.must("run", "tiny.yaml", *trace_last, *subprocess_hf)
    here = bench.root / "results" / "here"
    assert predictions(bench.results / "base") == predictions(here / "base")
    stage = Path("lora/seed-1/stage-2-trace_numglue_ds")
    assert_close(predictions(bench.results / stage), predictions(here / stage))
    assert "form" not in scores_of(bench.results / "base")
    assert [scores_of(root / stage)["form"] for root in (bench.results, here)] == [
        "merged",
        "adapter",
    ]
    for place in (Path("base"), stage):
        found = scores_of(bench.results / place)
        assert found["engine"] == "hf subprocess=True"
        assert "not_measured" in found["probes"]
        for part in ("trace", "general"):
            theirs = scores_of(here / place)[part]
            for name, entry in found[part].items():
                if name != "mean":
                    assert entry["requests"] == theirs[name]["requests"]
                    assert entry["requests"]["requests"] > 0
    assert "Not measured: engine `hf subprocess=True" in bench.report()


def test_cut_prompts_are_counted_and_reported(bench: Bench) -> None:
    bench.must("run", "tiny.yaml", "--method", "sft", "--engine-args", "max_length=16")
    assert "## Requests that were not answered as asked" in bench.report()
    # 6 prompts of `Text i\nStance:` (14 tokens) and 4 new tokens do not fit into 16.
    assert scores_of(bench.results / "base")["trace"]["trace_fomc"]["requests"] == {
        "requests": 6,
        "truncated": 6,
        "empty": 0,
    }
    bench.must("run", "tiny.yaml", "--method", "sft", "-o", "name=whole")
    assert "## Requests that were not" not in bench.must("report", "whole", "--full")

"""Two and four real processes (gloo) do what one does, stop as one, and go on as one.

A launcher that starts one process, or two that do not know of each other, must fail these tests:
the run itself records how many processes it was, and the method of this file asks torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cl_bench.checks import processes_alike
from cl_bench.cli import run_command
from cl_bench.experiment.run import run_experiment
from cl_bench.store.provenance import provenance
from tests.e2e.conftest import Bench
from tests.helpers.launching import launched

OTHER = {**provenance(), "packages": {**provenance()["packages"], "torch": "1.2.3"}}
CPU = {"ACCELERATE_USE_CPU": "true"}
AGEM = '''
from pathlib import Path

import torch

from cl_bench.methods.base import Method


class AGEM(Method):
    """Projects the gradient off the one of an earlier task, whichever way it points."""

    name = "agem"

    def prepare(self, stage):
        self.stage = stage
        shared = torch.distributed.is_initialized()
        stage.notes["world"] = torch.distributed.get_world_size() if shared else 1
        self.last = shared and torch.distributed.get_rank() == 1

    def before_step(self, step):
        if step.number == 2 and self.stage.index == 2 and self.last and Path("fails").exists():
            raise RuntimeError("invented")
        step.add(lambda masters: 1e-3 * sum(each.square().sum() for each in masters.values()))
        if self.stage.earlier:
            past = step.gradient_of(self.stage.batches(self.stage.earlier[0][1][:5]))
            product = sum(float((step.grads[name] * past[name]).sum()) for name in past)
            size = sum(float(past[name].square().sum()) for name in past)
            self.stage.notes.setdefault("products", []).append(product)
            for name in past:
                step.grads[name].sub_(past[name] * product / size)
'''
APART = {
    "fggm": {"name": "fggm", "alpha": 0.5},
    "replay": {"name": "replay", "ratio": 0.5},
}
CONTRACT = Path(__file__).parents[1] / "methods" / "contract"
METHODS = {
    "sft": "sft",
    "migu": "migu",
    "ewc": {"name": "ewc", "lambda": 1000},
    "lora": {"name": "lora", "dropout": 0, "lr": 1e-3},
    "both": {
        "compose": list(APART.values()),
        "label": "both",
    },
    "whole": {
        "compose": [
            {"name": "der", "memory": 5, "draw": 3, "top_k": 8},
            "lwf",
            "das",
            {"file": f"{CONTRACT}/ssr.py"},
            {"name": "ema", "decay": 0.9},
        ],
        "label": "whole",
    },
    "agem": {"file": "agem.py"},
}
OF_FOUR = ("sft", "migu", "ewc", "lora", "both", *APART)


def torchrun(bench: Bench, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command that README gives for CPUs."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launch, "--nproc_per_node", "2", "-m", "cl_bench", "run", "tiny.yaml", *arguments],
        env=os.environ | {**CPU, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def stage_of(bench: Bench, name: str, method: str, number: int = 2) -> Path:
    (found,) = (bench.root / "results" / name / method / "seed-1").glob(f"stage-{number}-*")
    return found


@pytest.mark.parametrize("apart", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_processes_train_like_one(bench: Bench, apart: bool) -> None:
    """With the parts of the composition as methods of their own where `apart`."""
    methods = {**APART, **METHODS} if apart else METHODS
    (bench.root / "agem.py").write_text(AGEM)
    bench.write_config(
        model={"path": "./model", "dtype": "float64"},
        methods=list(methods.values()),
        stages=[{"task": "FOMC", "limit": 6}, {"task": "trace_numglue_ds", "limit": 7}],
        train={
            "lr": 1e-3,
            "batch_size": 4,
            "micro_batch_size": 1,
            "max_prompt_tokens": 64,
            "max_answer_tokens": 4,
        },
        eval={
            "trace": {"limit": 1},
            "general": {"tasks": []},
            "probes": False,
            "within_stage": {"every": "epoch", "limit": 1},
        },
    )
    bench.must("run", "tiny.yaml", "-o", "name=one")

    (bench.root / "fails").touch()  # the second process fails in the last method's second stage
    command = ["run", "tiny.yaml", "-o", "name=two"]
    broken = launched(bench.root, lambda rank: run_command(command), environment=CPU)
    told = "".join(one.err for one in broken)
    said = [line for line in told.splitlines() if line.startswith("cl-bench:")]
    assert all(one.code for one in broken) and 1 in [one.code for one in broken], broken
    where = f"{bench.root / 'agem.py'}, line 22, in before_step"
    assert said == [f"cl-bench: failed: {where}: RuntimeError: invented"], told
    assert "2 processes on cpu" in told
    assert stage_of(bench, "two", "agem", 1).joinpath("scores.json").is_file()
    assert not stage_of(bench, "two", "agem").joinpath("scores.json").exists()
    (bench.root / "fails").unlink()
    resumed = torchrun(bench, "-o", "name=two")
    assert resumed.returncode == 0, resumed.stderr
    assert len(re.findall(r": training$", resumed.stderr, re.M)) == 1, "the rest is not repeated"
    assert resumed.stdout.count("# two\n") == 1, "one process reports"

    for method in methods:
        compare(bench, method)
    rehearsed = [
        json.loads((stage_of(bench, name, "whole") / "notes.json").read_text())["rehearsed"]
        for name in ("one", "two")
    ]
    assert rehearsed[0] == rehearsed[1] and any(rehearsed[0])
    notes = json.loads((stage_of(bench, "two", "agem") / "notes.json").read_text())
    assert notes["world"] == 2 and all(notes["products"])

    four_train_like_one(bench, [name for name in methods if name in OF_FOUR])


def four_train_like_one(bench: Bench, methods: list[str]) -> None:
    """An update has a micro-batch for each of them, and a stage's last one only for two or three.

    Every process says how many there were.
    """

    def work(rank: int) -> int:
        chosen = [part for method in methods for part in ("--method", method)]
        code = run_command(["run", "tiny.yaml", "-o", "name=four", *chosen])
        print(f"one of {torch.distributed.get_world_size()}")
        return code

    ended = launched(bench.root, work, 4, environment=CPU)
    assert [one.code for one in ended] == [0] * 4, "".join(one.err for one in ended)
    assert all("one of 4\n" in one.out for one in ended)
    for method in methods:
        compare(bench, method, "four", 4)


def compare(bench: Bench, method: str, other: str = "two", world: int = 2) -> None:
    """Weights, losses, curves and scores of both stages; and that there were so many processes."""
    for number in (1, 2):
        one, all_ = (stage_of(bench, name, method, number) for name in ("one", other))
        timing = [json.loads((stage / "timing.json").read_text()) for stage in (one, all_)]
        assert [kept["processes"] for kept in timing] == [1, world], "launched as another number"
        (file,) = (one / "checkpoint").glob("*.safetensors")
        left, right = (load_file(stage / "checkpoint" / file.name) for stage in (one, all_))
        for name, value in left.items():
            assert float((value - right[name]).abs().max()) < 1e-9, f"{method}: {name}"
        logs = [(stage / "train.jsonl").read_text().splitlines() for stage in (one, all_)]
        assert len(logs[0]) == len(logs[1])
        for a, b in zip(*(map(json.loads, log) for log in logs), strict=True):
            assert a == pytest.approx(b, abs=1e-8), method
        assert (one / "curve.jsonl").read_text() == (all_ / "curve.jsonl").read_text()
        scores = [json.loads((stage / "scores.json").read_text()) for stage in (one, all_)]
        assert scores[0]["trace"] == scores[1]["trace"]


def test_wrong_input_of_several_processes_is_said_once(bench: Bench) -> None:
    """Found by all before they are connected; by all after; by the first alone."""
    bench.write_config(methods=["sft"], eval={"trace": {"limit": 2}, "general": {"tasks": []}})
    bench.must("run", "tiny.yaml")
    cases = {
        "train.lrr": ["run", "tiny.yaml", "-o", "train.lrr=1"],
        "model.path": ["run", "tiny.yaml", "-o", "model.path=./nowhere"],
        "train.lr: was 0.001, is 0.5": ["run", "tiny.yaml", "-o", "train.lr=0.5"],
    }
    for expected, arguments in cases.items():
        ended = launched(
            bench.root,
            lambda rank, arguments=arguments: run_command(arguments),
            environment=CPU,
        )
        (speaker,) = [one for one in ended if "cl-bench: " in one.err]
        assert speaker.code == 2 and "cl-bench: error: " in speaker.err and expected in speaker.err


def test_processes_with_other_data_versions_or_folders_are_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each on a host of its own: told once, before anything is written."""
    monkeypatch.setattr(processes_alike, "SLOW", 0.5)
    bench.write_config(methods=["sft"], eval={"trace": {"limit": 2}, "general": {"tasks": []}})
    shutil.copytree(bench.root / "data", bench.root / "other")
    shutil.copytree(bench.root / "model", bench.root / "elsewhere" / "model")
    file = bench.root / "other" / "trace" / "FOMC" / "train.json"
    file.write_text(file.read_text().replace("Text 3", "Text three"))

    def other_version() -> None:
        monkeypatch.setitem(run_experiment.__globals__, "provenance", lambda: OTHER)

    cases = {
        "data: process 0 has": lambda: ["-o", "data_root=other"],
        "torch: process 0 has .*, process 1 has 1.2.3: give all processes the same": other_version,
        "--results: process 1 does not see what process 0 writes in": lambda: os.chdir("elsewhere"),
    }
    for number, (expected, differ) in enumerate(cases.items()):
        (bench.root / "elsewhere").mkdir(exist_ok=True)
        shutil.copytree(
            bench.root / "model", bench.root / "elsewhere" / "model", dirs_exist_ok=True
        )

        def work(rank: int, differ=differ, number: int = number) -> int:
            more = (differ() or []) if rank == 1 else []
            config = str(bench.root / "tiny.yaml")
            results = ["--results", "results" if number == 2 else str(bench.root / "results")]
            return run_command(["run", config, *results, *more])

        ended = launched(bench.root, work, environment=CPU)
        told = "".join(one.err for one in ended)
        said = [line for line in told.splitlines() if line.startswith("cl-bench: error:")]
        assert len(said) == 1 and re.search(expected, said[0]), told
        assert 2 in [one.code for one in ended]
        assert not (bench.root / "results").exists()

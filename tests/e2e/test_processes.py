"""Two processes (gloo) must do what one does."""

from __future__ import annotations

import os
import subprocess
import sys

from safetensors.torch import load_file

from tests.e2e.conftest import Bench


def test_two_processes_train_like_one(bench: Bench) -> None:
    bench.write_config(
        model={"path": "./model", "dtype": "float64"},
        methods=["sft", "fggm", "migu"],
        eval={"trace": {"limit": 2}, "general": {"tasks": []}},
    )
    code, _, err = bench.run("run", "tiny.yaml", "-o", "name=one", "-o", "train.micro_batch_size=1")
    assert code == 0, err
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launch, "--num_machines", "1", "--mixed_precision", "no", "-m", "cl_bench", "run"]
    done = subprocess.run(
        [*command, "tiny.yaml", "-o", "name=two", "-o", "train.micro_batch_size=1"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| ori (base model)") == 1, "one process reports"
    for method in ("sft", "fggm", "migu"):
        path = f"{method}/seed-1/stage-2-trace_numglue_ds/checkpoint/model.safetensors"
        one, two = (load_file(bench.root / "results" / name / path) for name in ("one", "two"))
        for name, value in one.items():
            assert float((value - two[name]).abs().max()) < 1e-8, f"{method}: {name}"

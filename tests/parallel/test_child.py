"""The process of one request: what it finds other than the driver, and what it writes of that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.parallel import child
from cl_bench.parallel.agreement import described
from cl_bench.parallel.asked import Command, Share
from cl_bench.parallel.requests import BASE, LOOK, Asking
from tests.e2e.conftest import Bench, write_task


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process does not end with its parent."""
    monkeypatch.setattr(child, "end_with", lambda parent: None)


def asking(bench: Bench) -> Asking:
    """As the driver would ask, from what is there now."""
    experiment, seen = resolve_file("tiny.yaml"), []
    child._look(experiment, False, seen.append)
    expected = json.loads(json.dumps(described(experiment, seen[0], bench.results)))
    command = Command("tiny.yaml", (), (), None, Path("results"), (None, None, None), False)
    return Asking(command, expected, {}, Path("token"), Share(1))


def answered(request: dict[str, Any], parent: int | None = None) -> list[str]:
    """What the process says of a fault, in the file and as its error."""
    Path("asked").write_text(json.dumps(request))
    with pytest.raises(UserError) as error:
        child.main(Path("asked"), Path("answer"), parent or os.getppid())
    answer = json.loads(Path("answer").read_text())
    assert answer == {"code": 2, "said": error.value.faults}
    return list(error.value.faults)


def test_a_host_that_is_alike_says_nothing(bench: Bench) -> None:
    Path("asked").write_text(json.dumps(asking(bench).to(LOOK)))
    child.main(Path("asked"), Path("answer"), os.getppid())
    assert not Path("answer").exists() and not bench.results.exists()


def test_other_rows_and_weights_are_named(bench: Bench) -> None:
    asked = asking(bench)
    write_task(bench.root / "data", "FOMC", [(f"Other {i}\nStance:", "A") for i in range(12)])
    weights = bench.root / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    for run in (LOOK, BASE, "sft/seed-1"):
        said = " ".join(answered(asked.to(run)))
        assert "data: other" in said and "trace_fomc" in said and "not the same weights" in said
        assert "not as on the driver's host" in said
    assert not (bench.results / "base").exists()


def test_another_config_is_named(bench: Bench) -> None:
    asked = asking(bench)
    bench.write_config(train={"lr": 5e-3, "batch_size": 4})
    said = "\n".join(answered(asked.to(LOOK)))
    assert "the config differs in stages.0.train.lr: 0.005, not 0.001" in said


def test_a_process_makes_one_run_alone(bench: Bench) -> None:
    asked = asking(bench)
    for run in (BASE, "fggm/seed-1"):
        Path("asked").write_text(json.dumps(asked.to(run)))
        child.main(Path("asked"), Path("answer"), os.getppid())
    assert sorted(path.parent.name for path in bench.results.glob("*/seed-*")) == ["fggm"]
    assert (bench.results / "base" / "scores.json").exists()
    assert (bench.results / "fggm" / "seed-1" / "summary.json").exists()


def test_more_processes_than_one_are_torchruns(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed import run

    given: list[list[str]] = []
    monkeypatch.setattr(run, "main", given.append)
    monkeypatch.delenv("RANK", raising=False)
    request = {**asking(bench).to(BASE), "processes": 4}
    Path("asked").write_text(json.dumps(request))
    child.main(Path("asked"), Path("answer"), os.getppid())
    words = ["--standalone", "--nproc-per-node", "4", "-m", "cl_bench", "work", "asked", "answer"]
    assert given == [[*words, str(os.getpid())]]

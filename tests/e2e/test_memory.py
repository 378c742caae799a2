"""Memory that does not suffice, from the config to the report; on several processes; in scoring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cl_bench.cli import run_command
from cl_bench.experiment import update
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.launching import launched

COMMAND = ["run", "tiny.yaml"]
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."
CPU = {"ACCELERATE_USE_CPU": "true"}
TRAIN = {"lr": 1e-3, "batch_size": 4, "max_prompt_tokens": 64, "max_answer_tokens": 4}
BARE = {
    "model": {"path": "./model", "dtype": "float64"},
    "methods": ["sft"],
    "stages": [{"task": "FOMC", "limit": 8}, {"task": "trace_numglue_ds", "limit": 8}],
    "train": TRAIN,
    "eval": {"trace": {"limit": 1}, "general": {"after": "never"}, "probes": False},
    "save_every": "1 update",
}
LAST = "sft/seed-1/stage-2-trace_numglue_ds"


@contextmanager
def rows_at_most(rows: int, begin: int = 1) -> Iterator[None]:
    """Forward passes of more rows fail, from the given one on."""
    real, passes = update.answer_loss, [0]

    def fails(model: Any, batch: Any, tokens: float) -> Any:
        passes[0] += 1
        if len(batch["input_ids"]) > rows and passes[0] >= begin:
            raise torch.OutOfMemoryError(FULL)
        return real(model, batch, tokens)

    update.answer_loss = fails
    try:
        yield
    finally:
        update.answer_loss = real


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / LAST / "checkpoint" / "model.safetensors")


def assert_near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    for name, value in one.items():
        assert float((value - other[name]).abs().max()) < 1e-8, name


def test_it_is_said_and_the_run_goes_on(bench: Bench) -> None:
    bench.write_config(**BARE)
    bench.must(*COMMAND, "-o", "name=whole")
    with rows_at_most(2, begin=4):
        code, _, err = bench.run(*COMMAND)
    assert code == 0, err
    said = "sft, seed 1, stage 2/2 trace_numglue_ds: out of memory in update 2 (CUDA out of memory."
    assert err.count(said) == 1 and "is cut into 2, and batch_size stays 4" in err
    report = " ".join(bench.must("report", "tiny", "--full").split())
    assert "stage 2: memory did not suffice in update 2: from there on each micro" in report
    notes = json.loads((bench.results / LAST / "scores.json").read_text())["notes"]
    assert notes["out_of_memory"] == {"updates": [2], "pieces": 2}
    assert_near(weights(bench.results), weights(bench.results.parent / "whole"))


def test_what_the_message_says_can_be_done(bench: Bench) -> None:
    """A run that is stopped keeps what it has, and goes on in smaller parts where it was."""
    bench.write_config(**{**BARE, "train": {**TRAIN, "micro_batch_size": 4}})
    bench.must(*COMMAND, "-o", "name=whole")
    with rows_at_most(2, begin=4):
        code, _, err = bench.run(*COMMAND)
    assert code == 1 and "stage 2 (trace_numglue_ds): out of memory in update 2 (" in err, err
    assert "set a smaller micro_batch_size (now 4), or auto or gradient_checkpointing: true" in err
    assert "--debug" not in err and (bench.results / LAST / "midway" / "update-1").is_dir()
    first = fingerprints(bench.results / "sft/seed-1/stage-1-trace_fomc")
    with rows_at_most(2):
        code, _, err = bench.run(*COMMAND, "-o", "train.micro_batch_size=2")
    assert code == 0 and "begins again" not in err, err
    assert fingerprints(bench.results / "sft/seed-1/stage-1-trace_fomc") == first
    report = " ".join(bench.must("report", "tiny", "--full").split())
    assert "trained with micro_batch_size 2, other than the run was begun with" in report
    assert_near(weights(bench.results), weights(bench.results.parent / "whole"))
    assert bench.run("verify", "tiny")[0] == 0


def test_of_a_run_without_a_trained_stage(bench: Bench) -> None:
    bench.write_config(**{**BARE, "train": {**TRAIN, "micro_batch_size": 4}})
    with rows_at_most(2, begin=2):
        code, _, err = bench.run(*COMMAND)
    assert code == 1 and "out of memory in update 2" in err
    with rows_at_most(2):
        code, _, err = bench.run(*COMMAND, "-o", "train.micro_batch_size=auto")
    assert code == 0 and "begins again" not in err
    log = bench.results / "sft/seed-1/stage-1-trace_fomc/train.jsonl"
    assert len(log.read_text().splitlines()) == 2


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_agree(bench: Bench, rank: int) -> None:
    """Memory does not suffice in one of two: both cut; where it cannot be cut, both stop."""
    bench.write_config(**{**BARE, "train": {**TRAIN, "micro_batch_tokens": 40}})
    bench.must(*COMMAND, "-o", "name=whole")

    def work(own: int) -> int:
        with rows_at_most(1 if own == rank else 4, begin=2):
            return run_command(COMMAND)

    def stops(own: int) -> int:
        with rows_at_most(0 if own == rank else 4):
            return run_command([*COMMAND, "-o", "name=stops"])

    ended = launched(bench.root, work, environment=CPU)
    assert [one.code for one in ended] == [0, 0], ended
    assert ended[0].err.count("out of memory in update") == 2, "once in each stage"
    assert not ended[1].err.count("out of memory")
    assert_near(weights(bench.results), weights(bench.results.parent / "whole"))
    ended = launched(bench.root, stops, environment=CPU)
    told = "".join(one.err for one in ended)
    assert 1 in [one.code for one in ended] and all(one.code for one in ended), ended
    assert told.count("cl-bench: failed: stage 1 (trace_fomc): out of memory in update 1") == 1
    assert "with one example in a forward pass" in told


@pytest.mark.parametrize("engine", ["cl-bench", "hf"])
def test_scoring_in_smaller_passes(
    bench: Bench, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same scores; and where even the smallest passes are too large, what to set."""
    from transformers import LlamaForCausalLM

    evaluation = {"trace": {"limit": 6}, "general": {"tasks": ["piqa"], "limit": 4}}
    bench.write_config(methods=["ori"], eval=evaluation)
    bench.must(*COMMAND, "--engine", engine, "-o", "name=whole")
    real = LlamaForCausalLM.forward
    at_most = [60]

    def forward(self: Any, input_ids: torch.Tensor | None = None, **rest: Any) -> Any:
        tokens = next(v for v in (input_ids, rest.get("inputs_embeds")) if v is not None)
        if tokens.shape[0] * tokens.shape[1] > at_most[0]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return real(self, input_ids, **rest)

    monkeypatch.setattr(LlamaForCausalLM, "forward", forward)
    code, _, err = bench.run(*COMMAND, "--engine", engine)
    assert code == 0 and "answered in smaller passes" in err, err
    whole, small = (
        json.loads((bench.root / "results" / name / "base" / "scores.json").read_text())
        for name in ("whole", "tiny")
    )
    for part in ("trace", "general"):
        for task, entry in whole[part].items():
            if task != "mean":
                halved = small[part][task].pop("requests").pop("halved", 0)
                assert entry.pop("requests")["requests"] and halved <= 6
    assert small["trace"] == whole["trace"] and small["general"] == whole["general"]
    at_most[0] = 2
    code, _, err = bench.run(*COMMAND, "--engine", engine, "-o", "name=never")
    assert code == 1 and "give --engine-args token_budget=256" in err and "--debug" not in err

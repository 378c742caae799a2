"""The benchmark scripts on a tiny model: everyone runs and the tables have their columns."""

from __future__ import annotations

import importlib
import multiprocessing
import operator
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from cl_bench.training.update_plan import Rows
from tests.helpers.tiny import tiny_model

VOCAB = 61


@pytest.fixture
def scripts(monkeypatch):
    """(side_by_side, step, fisher), on short batches of a small vocabulary."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    modules = [importlib.import_module(name) for name in ("side_by_side", "step", "fisher")]
    small = modules[0].batch_of
    for module in modules:
        monkeypatch.setattr(module, "batch_of", lambda n: small(n, VOCAB))
    yield modules
    torch.set_num_threads(threads)
    for name in ("side_by_side", "step", "fisher"):
        sys.modules.pop(name)


def load(dtype):
    return tiny_model(VOCAB, "qwen2", tie=True, dtype=dtype)


@pytest.mark.parametrize("only", ["cl-bench", "fp32", "bf16 model"])
def test_every_contestant_of_a_step_runs(scripts, only):
    side_by_side, step, _ = scripts
    rows = [make() for make in step.makers(load, 24, [only])]
    assert len(rows) == (4 if only == "cl-bench" else 5 if only == "fp32" else 3)
    side_by_side.race(rows, repeats=2, budget=60.0)
    assert all(len(c.seconds) == 2 and c.median > 0 and c.state_bytes() > 0 for c in rows)
    rates = dict.fromkeys(step.NAMES, 1.0)
    lines = step.report(rows, rates).splitlines()
    assert len(lines) == 2 + len(rows) and "x full" in lines[0]


def test_a_contestant_computes_in_its_own_process(scripts):
    """A new one, which imports the benchmark's module alone."""
    side_by_side, _, _ = scripts
    run, held = partial(operator.mul, [1.0]), partial(int, 5)
    clock = partial(side_by_side.Contestant, "clock", run, "fp32", 2.0, held)
    remote = side_by_side.in_process(clock, threads=1)
    assert remote.run(3) == [1.0] * 3
    assert (remote.name, remote.gflop, remote.state_bytes()) == ("clock", 2.0, 5)


def dies():
    raise SystemExit(3)


def test_a_process_that_dies_is_named(scripts, monkeypatch):
    side_by_side, _, _ = scripts
    forks = multiprocessing.get_context("fork")
    monkeypatch.setattr(side_by_side.multiprocessing, "get_context", lambda kind: forks)
    with pytest.raises(RuntimeError, match="ended with 3"):
        side_by_side.in_process(dies, threads=1).run(1)


def test_slow_contestants_get_fewer_repetitions(scripts):
    side_by_side, _, _ = scripts
    slow = side_by_side.Contestant("slow", lambda n: [100.0] * n, "", 1.0)
    fast = side_by_side.Contestant("fast", lambda n: [1.0] * n, "", 1.0)
    side_by_side.race([slow, fast], repeats=7, budget=150.0)
    assert (len(slow.seconds), len(fast.seconds)) == (4, 7)


def test_the_masked_peer_masks_what_the_engine_selects(scripts):
    _, step, _ = scripts
    model = load(torch.float32)
    plan = step.selected(model)
    for name, parameter in model.named_parameters():
        selection, mask = plan.of(name), step.dense_mask(plan.of(name), parameter)
        if isinstance(selection, Rows):
            assert mask.sum() == selection.index.numel() * parameter.shape[1]
            assert mask.sum() / mask.numel() == pytest.approx(0.3, abs=0.05)


def test_the_loop_of_the_fisher_benchmark_gives_the_same_scores(scripts, monkeypatch):
    side_by_side, _, fisher = scripts
    model = load(torch.float64)
    batch = fisher.batch_of(24)
    mine, theirs = fisher.fisher_scores(model, [batch]), fisher.loop(model, batch)
    for name, score in theirs.items():
        torch.testing.assert_close(mine[name], score)
    monkeypatch.setattr(fisher, "load", lambda name, dtype, layers: load(dtype))
    names = ("dense", "loop", *fisher.GRANULARITIES)
    rows = [fisher.contestant(name, "tiny", "fp32", None, 24) for name in names]
    side_by_side.race(rows, repeats=1, budget=60.0)
    assert [c.name for c in rows] == ["dense", "loop", "rows", "columns", "elements"]
    assert "x dense" in fisher.report(rows)

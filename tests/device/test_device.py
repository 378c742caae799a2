"""What must hold on the device in `CL_BENCH_TEST_DEVICE`: `benchmarks/gpu.sh` asks it of a card.

On the CPU, the default, the same tests show that they can be run at all.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from cl_bench.cli import run_command
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject, opened
from cl_bench.evaluation.shared_prefix.ahead.block import Block
from cl_bench.evaluation.shared_prefix.ahead.opened import why_not_ahead
from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel, evaluating
from cl_bench.importance.fisher import fisher_scores
from cl_bench.training.loss import answer_loss
from cl_bench.training.selective_update import SelectiveUpdate
from tests.e2e.conftest import lay_out
from tests.helpers.engine_oracle import hflm, requests
from tests.helpers.selective_oracle import (
    DenseMaskedAdamW,
    count_answers,
    random_batch,
    random_plan,
)
from tests.helpers.tiny import byte_tokenizer, tiny_model

DEVICE = torch.device(os.environ.get("CL_BENCH_TEST_DEVICE", "cpu"))
VOCAB = 61


def on_device(batch: dict[str, Any]) -> dict[str, Any]:
    return {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


@contextmanager
def without_waiting() -> Iterator[None]:
    """On a card an error where the CPU would wait for it."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_updates_equal_dense_masked_adamw() -> None:
    model = tiny_model(VOCAB, "qwen2", tie=True, seed=3, dtype=torch.float64).train().to(DEVICE)
    dense = copy.deepcopy(model)
    plan = random_plan(model, seed=11)
    oracle = DenseMaskedAdamW(dense, plan, lr=1e-3, max_norm=1.0)
    batches = [on_device(random_batch(VOCAB, [(7, 2), (3, 4)], "left", seed=i)) for i in range(3)]
    with SelectiveUpdate(model, plan) as engine:
        for batch in batches:
            tokens = count_answers([batch])
            answer_loss(model, batch, tokens)[0].backward()
            engine.clip(1.0)
            with without_waiting():
                engine.step(1e-3)
                engine.zero_grad()
            oracle.step([batch])
    for (name, mine), theirs in zip(model.named_parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("granularity", ["rows", "columns", "elements"])
def test_fisher_scores_are_those_of_the_cpu(granularity: Any) -> None:
    model = tiny_model(VOCAB, "qwen2", tie=True, dtype=torch.float64)
    batch = random_batch(VOCAB, [(7, 2), (3, 4), (1, 1)], "right", seed=5)
    here = fisher_scores(model, [batch], granularity)
    there = fisher_scores(copy.deepcopy(model).to(DEVICE), [on_device(batch)], granularity)
    for name, score in here.items():
        torch.testing.assert_close(there[name].cpu(), score, rtol=1e-9, atol=1e-12, msg=name)


def test_answers_are_those_of_hflm() -> None:
    model, tokenizer = tiny_model().to(DEVICE), byte_tokenizer()
    header = "What is it?\nA stone.\n\n"
    pairs = requests("loglikelihood", [(f"{header}{i}?", f" {'x' * i}") for i in range(1, 9)])
    kwargs = {"until": ["z"], "max_gen_toks": 6}
    prompts = requests("generate_until", [(f"{header}{i}!", kwargs) for i in range(8)])
    with opened(Engine(), Subject(model, tokenizer)) as lm:
        scores, texts = lm.loglikelihood(pairs), lm.generate_until(prompts)
        assert lm.reason is None, lm.reason
    oracle = hflm(model, tokenizer)
    assert texts == oracle.generate_until(prompts, disable_tqdm=True)
    expected = oracle.loglikelihood(pairs, disable_tqdm=True)
    assert [s for s, _ in scores] == pytest.approx([s for s, _ in expected], abs=1e-4)


def test_steps_ahead_wait_for_nothing() -> None:
    model = tiny_model().to(DEVICE)
    with evaluating(model):
        ids = torch.ones(3, 5, dtype=torch.long, device=DEVICE)
        slots = SlotCache(model(ids, use_cache=True).past_key_values)
        slots.reserve(3, 24)
        block = Block(PackedModel(model, Counters()), slots, 3, 24)
        with without_waiting():
            block.step()
        one = Block(PackedModel(model, Counters()), slots, 3, 24)
        one._replay = one.step
        assert block.run([4, 5, 6], [5, 5, 5]) == one.run([4, 5, 6], [5, 5, 5])
        assert why_not_ahead(model) is None


def test_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`cl-bench run` takes a card where there is one; a second start has nothing to do."""
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained(tmp_path / "saved")
    byte_tokenizer().save_pretrained(tmp_path / "saved")
    lay_out(tmp_path, tmp_path / "saved")
    assert run_command(["run", "tiny.yaml", "--method", "fggm"]) == 0
    stage = tmp_path / "results" / "tiny" / "fggm" / "seed-1" / "stage-2-trace_numglue_ds"
    assert json.loads((stage / "timing.json").read_text())["peak_memory_mb"] > 0
    written = (stage / "scores.json").stat().st_mtime_ns
    assert run_command(["run", "tiny.yaml", "--method", "fggm"]) == 0
    assert (stage / "scores.json").stat().st_mtime_ns == written

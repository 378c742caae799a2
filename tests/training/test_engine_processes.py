"""Two processes (gloo) must match one."""

from __future__ import annotations

import torch
import torch.distributed as dist

from cl_bench.training.loss import answer_loss
from cl_bench.training.selective_update import SelectiveUpdate
from tests.helpers.forked import watched
from tests.helpers.selective_oracle import count_answers, random_batch, random_plan
from tests.helpers.tiny import tiny_model

VOCAB, STEPS = 61, 4
SIZES = [(7, 2), (3, 4), (1, 1), (5, 3)]


def train(rank: int, world: int, reduce) -> dict[str, torch.Tensor]:
    torch.set_num_threads(1)
    model = tiny_model(VOCAB, "qwen2", tie=True, dtype=torch.float64).train()
    with SelectiveUpdate(model, random_plan(model, seed=1)) as engine:
        for step in range(STEPS):
            parts = [random_batch(VOCAB, SIZES[i::2], "left", seed=2 * step + i) for i in range(2)]
            tokens = count_answers(parts)
            for batch in parts[rank::world]:
                answer_loss(model, batch, tokens)[0].backward()
            engine.all_reduce(reduce)
            engine.clip(1.0)
            engine.step(1e-3)
            engine.zero_grad()
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def join(rank: int, store: str) -> dict[str, torch.Tensor]:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    try:
        return train(rank, 2, dist.all_reduce)
    finally:
        dist.destroy_process_group()


def test_two_processes_match_one(tmp_path):
    store, out = str(tmp_path / "store"), tmp_path / "second.pt"

    def second() -> int:
        torch.save(join(1, store), out)
        return 0

    threads = torch.get_num_threads()
    other, said = watched(second)
    try:
        first = join(0, store)
        alone = train(0, 1, lambda flat: None)
    finally:
        code = other.wait()
        torch.set_num_threads(threads)
    assert code == 0, said.read()
    said.close()
    theirs = torch.load(out)
    for name, value in alone.items():
        assert torch.equal(first[name], theirs[name]), name
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-9)

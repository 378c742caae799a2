"""Which last MLPs are left whole: found by a trial, not by a list of names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.training.last_mlp import _is_separable, _passes_trial
from cl_bench.training.loss import answer_loss
from tests.helpers.architectures import VOCAB, tiny
from tests.helpers.selective_oracle import plain_loss, random_batch

BATCH = random_batch(VOCAB, [(20, 2), (9, 3)], "right", seed=1)


class PlainMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.rest = nn.Linear(8, 12), nn.Linear(12, 8), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Any:
        return self.rest(self.down(self.up(x).relu()))


class PairMLP(PlainMLP):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x.sum()


class ResidualMLP(PlainMLP):
    def forward(self, x: Tensor, residual: Tensor) -> Any:
        return super().forward(x) + residual


class WideMLP(PlainMLP):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).double()


class ShiftedMLP(PlainMLP):
    """Each position sees the one before it, as in RWKV."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x + 0.3 * nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])


class CentredMLP(PlainMLP):
    """The mean over the batch is taken away."""

    def forward(self, x: Tensor) -> Any:
        return super().forward(x - 0.3 * x.mean((0, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_trial_tells_functions_of_a_position(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert _passes_trial(PlainMLP().to(dtype).train())
    for kind in (PairMLP, ResidualMLP, WideMLP, ShiftedMLP, CentredMLP):
        if kind is not WideMLP or dtype != torch.float64:
            assert not _passes_trial(kind().to(dtype)), kind


def test_a_trial_leaves_no_trace() -> None:
    mlp = PlainMLP().train()
    mlp.down.eval()
    mlp.up.forward = nn.Linear.forward.__get__(mlp.up)
    state = torch.random.get_rng_state()
    assert _is_separable(nn.Module(), mlp)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert mlp.rest.training and not mlp.down.training and "forward" in vars(mlp.up)


@pytest.mark.parametrize("name", ["gpt_oss", "gpt_neox", "phi3", "mixtral", "gpt2", "bloom"])
def test_the_loss_is_that_of_the_whole_model(name: str) -> None:
    model = tiny(name)
    mine, plain = answer_loss(model, BATCH, 5.0)[0], plain_loss(model, BATCH, 5.0)
    close = 1e-6 if name == "bloom" else 1e-10
    assert mine.item() == pytest.approx(plain.item(), rel=close)
    one, two = (torch.autograd.grad(loss, list(model.parameters())) for loss in (mine, plain))
    for (n, _), a, b in zip(model.named_parameters(), one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 if name == "bloom" else 1e-10, msg=n)

"""The divergence of two models' distributions against torch's own, value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import kl_div

from cl_bench.training import distillation
from cl_bench.training.distillation import summed_kl


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_it_is_torchs(reverse: bool, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distillation, "_BLOCK", 15)  # three rows of five, then two
    own, old = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.manual_seed(0)) * 4
    own, plain = own.clone().requires_grad_(), own.clone().requires_grad_()
    found = 0.7 * summed_kl(own, old, temperature, reverse)
    q, p = (plain / temperature).log_softmax(1), (old / temperature).log_softmax(1)
    first, second = (q, p) if reverse else (p, q)
    expected = 0.7 * kl_div(second, first, reduction="sum", log_target=True)
    (ours,), (theirs,) = (
        torch.autograd.grad(value, [z]) for value, z in ((found, own), (expected, plain))
    )
    assert float(found - expected) == pytest.approx(0, abs=1e-12)
    assert float((ours - theirs).abs().max()) < 1e-12


@pytest.mark.parametrize("reverse", [False, True])
def test_excluded_tokens_and_16_bits(reverse: bool) -> None:
    """A token at -inf in both has no part in it; equal models have no distance and no gradient."""
    own = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, 0.0, -torch.inf]], dtype=torch.bfloat16)
    own.requires_grad_()
    same = summed_kl(own, own.detach(), reverse=reverse)
    (gradient,) = torch.autograd.grad(same, [own])
    assert float(same) == 0 and not gradient.any() and gradient.dtype == torch.bfloat16
    other = summed_kl(own, own.detach().flip(0), reverse=reverse)
    (gradient,) = torch.autograd.grad(other, [own])
    assert float(other) > 0 and gradient.isfinite().all() and other.dtype == torch.float32

"""The compiled optimiser against torch's AdamW, entry by entry to the last bit."""

from __future__ import annotations

import shutil

import pytest
import torch

from cl_bench.training.cpu import adamw_kernel, compiled
from cl_bench.training.optimiser import FlatAdamW, separate_operations

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
EXTREME = (0.0, -0.0, 1e-45, -1e-40, 1e-20, 3e38, float("inf"), float("nan"))


@pytest.fixture(autouse=True)
def for_few_entries(monkeypatch):
    monkeypatch.setattr(adamw_kernel, "WORTH", 1)
    threads = torch.get_num_threads()
    adamw_kernel._kernel.cache_clear()
    yield
    adamw_kernel._kernel.cache_clear()
    torch.set_num_threads(threads)


def gradients(size, step):
    """Of all magnitudes, and some that are no ordinary numbers."""
    generator = torch.Generator().manual_seed(1000 * size + step)
    found = torch.randn(size, generator=generator)
    found *= torch.randn(size, generator=generator).mul_(6).exp_()
    special = torch.tensor(EXTREME)[: size // 2]
    found[: len(special)] = special
    return found


@needs_compiler
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("size, threads", [(1, 1), (17, 2), (2048, 2), (7001, 1), (7001, 2)])
def test_every_bit_is_that_of_torch(size, threads, decay):
    torch.set_num_threads(threads)
    flat = FlatAdamW.empty(size, torch.float32, torch.device("cpu"))
    assert adamw_kernel.kernel_for(flat.masters, 0.1, separate_operations) is not None
    flat.masters.normal_(generator=torch.Generator().manual_seed(size)).mul_(1e-3)
    weight = torch.nn.Parameter(flat.masters.clone())
    options = {"betas": (0.9, 0.95), "weight_decay": decay, "foreach": False, "fused": False}
    theirs = torch.optim.AdamW([weight], lr=1e-2, **options)
    for step in range(6):
        weight.grad = gradients(size, step)
        flat.grads.copy_(weight.grad)
        theirs.step()
        flat.step(1e-2, (0.9, 0.95), 1e-8, decay, zero_grads=step % 2 == 0)
        left = 0 * weight.grad.nan_to_num() if step % 2 == 0 else weight.grad
        assert torch.equal(flat.grads.nan_to_num(), left.nan_to_num())
    state = theirs.state[weight]
    pairs = [(flat.masters, weight.data)]
    pairs += [(getattr(flat, name), state[name]) for name in ("exp_avg", "exp_avg_sq")]
    for mine, expected in pairs:
        assert torch.equal(mine.isnan(), expected.isnan())
        assert torch.equal(mine.nan_to_num(), expected.nan_to_num())


@needs_compiler
@pytest.mark.parametrize(
    "fault", ["no compiler", "other rounding", "not C", "small", "float64", "elsewhere", "beta1"]
)
def test_without_a_kernel_torch_updates(fault, monkeypatch, tmp_path):
    masters, weight = torch.zeros(100), 0.1
    wrong = tmp_path / "adamw_kernel.c"
    if fault == "no compiler":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    if fault == "other rounding":
        source = adamw_kernel.SOURCE.read_text()
        wrong.write_text(source.replace("share * g[i], g[i]", "share, g[i] * g[i]"))
        monkeypatch.setattr(adamw_kernel, "SOURCE", wrong)
    if fault == "not C":
        wrong.write_text("neither")
        monkeypatch.setattr(adamw_kernel, "SOURCE", wrong)
    if fault == "small":
        monkeypatch.setattr(adamw_kernel, "WORTH", 101)
    if fault == "float64":
        masters = masters.double()
    if fault == "elsewhere":
        masters = masters.to("meta")
    if fault == "beta1":
        weight = 0.6
    assert adamw_kernel.kernel_for(masters, weight, separate_operations) is None


def test_a_compiler_that_hangs_is_not_waited_for(monkeypatch, tmp_path):
    slow = tmp_path / "cc"
    slow.write_text("#!/bin/sh\nsleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(slow))
    monkeypatch.setattr(compiled, "SECONDS", 0.05)
    assert compiled.compiled(adamw_kernel.SOURCE) is None

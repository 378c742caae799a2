"""The last MLP at answer positions: loss and gradients of the whole one; when it is whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cl_bench.training import loss
from tests.helpers.selective_oracle import random_batch
from tests.helpers.tiny import tiny_model


@contextmanager
def seen_by_the_last_mlp(model: Any) -> Iterator[list[torch.Size]]:
    """Shapes of what its gate projection is called with, without a hook."""
    gate, seen = model.model.layers[-1].mlp.gate_proj, []
    forward = gate.forward

    def run(x: Tensor) -> Any:
        seen.append(x.shape)
        return forward(x)

    gate.forward = run
    yield seen
    del gate.forward


def gradients(model: Any, batch: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    value = loss.answer_loss(model, batch, 3.0)[0]
    value.backward()
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters()}


LENGTHS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=4)


@settings(deadline=None, max_examples=25)
@given(lengths=LENGTHS, side=st.sampled_from(["left", "right"]), seed=st.integers(0, 99))
def test_loss_and_gradients_are_those_of_the_whole_mlp(
    lengths: list[tuple[int, int]], side: Any, seed: int
) -> None:
    model = tiny_model(dtype=torch.float64)
    batch = random_batch(259, lengths, side, seed)
    with seen_by_the_last_mlp(model) as seen:
        found, mine = gradients(model, batch)
    samples, length = batch["input_ids"].shape
    widest = int((batch["labels"][:, 1:] != -100).sum(1).max())
    assert list(seen[0][:2]) == [samples, widest if 2 * widest <= length else length]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "mlp_at_answers", lambda *_: nullcontext())
        expected, theirs = gradients(model, batch)
    assert found == pytest.approx(expected, rel=1e-12)
    for name, gradient in theirs.items():
        torch.testing.assert_close(mine[name], gradient, rtol=1e-9, atol=1e-12)


def watch(model: Any) -> None:
    model.model.layers[-1].mlp.down_proj.register_forward_hook(lambda *_: None)


def checkpoint(model: Any) -> None:
    model.gradient_checkpointing_enable({"use_reentrant": False})


def rename(model: Any) -> None:
    mlp = model.model.layers[-1].mlp
    mlp.__class__ = type("Experts", (type(mlp),), {})


@pytest.mark.parametrize("change", [watch, checkpoint, rename])
def test_it_stays_whole_where_others_need_all_positions(change: Any) -> None:
    model, batch = tiny_model().train(), random_batch(259, [(20, 3), (11, 5)], "left", 0)
    change(model)
    with seen_by_the_last_mlp(model) as seen:
        gradients(model, batch)
    assert {shape[1] for shape in seen} == {batch["input_ids"].shape[1]}


def test_the_model_is_as_before_afterwards() -> None:
    model, batch = tiny_model(), random_batch(259, [(20, 3)], "left", 0)
    mlp = model.model.layers[-1].mlp
    loss.answer_loss(model, batch, 1.0)
    assert "forward" not in vars(mlp)
    mlp.gate_proj.forward = lambda x: 1 / 0
    with pytest.raises(ZeroDivisionError):
        loss.answer_loss(model, batch, 1.0)
    assert "forward" not in vars(mlp)

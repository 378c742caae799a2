"""Hooks that no shipped method uses yet, carried by methods that exist only here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Phase, Stage, State, Step
from cl_bench.methods.compose import Composite
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.sft import SFT
from cl_bench.training.loss import AnswerOutputs
from tests.helpers.reference import (
    NEW,
    TRAIN,
    assert_close,
    encode,
    make_stage,
    model64,
    reference_training,
    run_method,
    sample_loss,
    weights,
)


class LogitDecay(Method):
    """loss + mean over answer tokens of c * |logits|^2 (a stand-in for LwF's distillation)."""

    name = "logit_decay"

    def penalty(self, batch: Mapping[str, Tensor], outputs: AnswerOutputs) -> Tensor:
        return 0.1 * outputs.logits.square().sum(-1).mean()


@pytest.mark.parametrize("micro_batch_size", [1, 2, 4])
def test_a_penalty_is_averaged_like_the_loss(micro_batch_size: int) -> None:
    expected = model64()
    model = copy.deepcopy(expected)
    train = TRAIN.model_copy(update={"micro_batch_size": micro_batch_size})
    batch = encode(NEW, TRAIN)[:4]
    tokens = sum(item.answer_tokens for item in batch)
    total = torch.zeros((), dtype=torch.float64)
    for item in batch:
        logits = expected(input_ids=torch.tensor([item.input_ids])).logits[0]
        answers = logits[max(item.prompt_length, 1) - 1 : len(item.input_ids) - 1]
        total = total + sample_loss(expected, item) + 0.1 * answers.square().sum()
    (total / tokens).backward()
    seen: dict[str, Tensor] = {}

    class Watch(Method):
        name = "watch"

        def before_step(self, step: Step) -> None:
            seen.update({name: grad.clone() for name, grad in step.grads.items()})

    stage, batcher = make_stage(model, NEW[:4], train)
    run_method(Composite([LogitDecay(), Watch()]), stage, batcher, epochs=1)
    wanted = {name: p.grad for name, p in expected.named_parameters() if p.grad is not None}
    assert_close(seen, wanted, 1e-6)  # the model's norms compute in float32


class HalfWay(Method):
    """After every update go back half of the way to where the stage began (an average)."""

    name = "half_way"

    def prepare(self, stage: Stage) -> None:
        self._start = {n: p.detach().clone() for n, p in stage.model.named_parameters()}

    def after_step(self, masters: Mapping[str, Tensor]) -> bool:
        for name, master in masters.items():
            master.lerp_(self._start[name], 0.5)
        return True


def test_after_step_changes_masters_and_model() -> None:
    start = model64()
    model = copy.deepcopy(start)
    stage, batcher = make_stage(model, NEW[:4], TRAIN)
    run_method(HalfWay(), stage, batcher, epochs=1)
    expected = copy.deepcopy(start)
    reference_training(expected, NEW[:4], TRAIN, 1)
    halfway = {n: (v + weights(start)[n]) / 2 for n, v in weights(expected).items()}
    assert_close(weights(model), halfway)


class Twice(Method):
    """A first phase that is thrown away, then one that begins where the stage began."""

    name = "twice"

    def phases(self, stage: Stage) -> Iterator[Phase]:
        start = stage.snapshot()
        yield Phase(stage.mixture, 1)
        yield Phase(stage.mixture, stage.epochs, start=start)


def test_a_phase_can_begin_where_the_stage_began() -> None:
    start = model64()
    model, once = copy.deepcopy(start), copy.deepcopy(start)
    records = run_method(Twice(), *make_stage(model, NEW, TRAIN), epochs=2)
    assert [record["phase"] for record in records] == [1] * 3 + [2] * 6
    assert records[0]["loss"] == pytest.approx(
        run_method(SFT(), *make_stage(once, NEW, TRAIN), epochs=1)[0]["loss"]
    )
    assert any(
        not torch.equal(value, weights(start)[name]) for name, value in weights(model).items()
    )


class CountMicroBatches(Method):
    """Sees the running sum of gradients after each backward pass."""

    name = "count"

    def prepare(self, stage: Stage) -> None:
        self.norms: list[float] = []

    def after_micro_batch(self, grads: Mapping[str, Tensor]) -> None:
        self.norms.append(float(sum(g.square().sum() for g in grads.values())))


def test_after_micro_batch_is_called_for_each() -> None:
    method = CountMicroBatches()
    stage, batcher = make_stage(model64(), NEW, TRAIN.model_copy(update={"micro_batch_size": 2}))
    run_method(method, stage, batcher, epochs=1)
    assert len(method.norms) == 2 + 2 + 1 and min(method.norms) > 0


def test_composition_refuses_two_plans_and_keeps_states_apart() -> None:
    class Other(FGGM):
        name = "other"

        def state(self) -> State:
            return State({"x": torch.ones(1)}, {"x": ["a text"]})

        def load_state(self, state: State) -> None:
            self.loaded = state

    stage, _ = make_stage(model64(), NEW, TRAIN)
    both = Composite([FGGM(), Other()])
    with pytest.raises(UserError, match="fggm and other both decide"):
        both.plan(stage)
    assert list(both.state().tensors) == ["other/x"] == list(both.state().records)
    both.load_state(State({**both.state().tensors, "others/y": torch.zeros(1)}))
    other = both.parts[1]
    assert isinstance(other, Other)
    assert list(other.loaded.tensors) == ["x"] and not other.loaded.records

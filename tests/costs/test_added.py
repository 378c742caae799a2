"""What methods add: sums, words for what methods usually do, and hooks that answer wrongly."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from cl_bench.costs.added import (
    Cost,
    Disk,
    Memory,
    Outputs,
    Pass,
    Work,
    another_gradient,
    gradient_of_each,
    kept,
    teacher,
)
from cl_bench.costs.quantiles import above_quantile
from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.total import Total, total
from cl_bench.costs.trained import everything, masked, only
from cl_bench.errors import UserError
from cl_bench.importance.threshold import quantile
from cl_bench.methods.agem import AGEM
from cl_bench.methods.base import Method
from cl_bench.methods.compose import Composite
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.gem import GEM
from cl_bench.methods.lora import LoRA
from cl_bench.training.selective_update import SelectiveUpdate
from tests.helpers.reference import TRAIN, examples, make_stage, run_method
from tests.helpers.tiny import tiny_model

SHAPES = shapes_of(tiny_model())
FULL = everything(SHAPES)


def counted(added: Any = None, trained: Any = None, beside: Any = None, earlier: int = 0) -> Total:
    """The total of a method that answers so, in a composition with another."""

    class Mine(Method):
        name = "mine"

        def trains(self, shapes: Any) -> Any:
            return trained(shapes) if callable(trained) else trained

        def adds(self, shapes: Any) -> Any:
            return added(shapes) if callable(added) else added

    method = Mine() if beside is None else Composite([Mine(), beside])
    return total(method, SHAPES, batch_size=8, earlier=earlier)


def test_every_field_of_every_record_is_summed() -> None:
    """A field that a sum forgot would be a cost that compositions lose."""
    for record in (Memory, Work, Disk):
        for number, field in enumerate(fields(record), start=1):
            others = {"passes": (Pass(3),), "watched": True, "outputs": (Outputs(2, 5),)}
            value: Any = others.get(field.name, number)
            one, nothing = record(**{field.name: value}), record()
            assert one + nothing == nothing + one == one
            if field.name != "watched":
                assert getattr(one + one, field.name) == value + value
    said = Cost(remarks=("a",)) + Cost(remarks=("b",))
    assert said == Cost(remarks=("a", "b")) and sum([kept(1), kept(2)], Cost()) == kept(3)


def test_outputs_are_as_large_as_answers_are() -> None:
    stored = Cost(disk=Disk(state=7, outputs=(Outputs(4, 10), Outputs(100, 1))))
    known = replace(counted(stored), answers=((2, 2.5), (None, 8.0)))
    assert known.state == 7 + 10 * (2 * 2.5 + 4 * 8) + (2 * 2.5 + 100 * 8)
    assert known.checkpoint == FULL.weights + known.state
    assert counted(stored).state == 7  # nothing is known of answers


def test_a_teacher_is_a_copy_of_the_model_and_a_forward_pass() -> None:
    cost = counted(teacher)
    assert cost.own == FULL.weights == 4 * SHAPES.numel
    assert cost.flops_per_token == (6 + 2) * SHAPES.products
    beside_adapters = counted(teacher, beside=LoRA())
    assert beside_adapters.own == beside_adapters.base.weights  # the whole model, and the adapters


def test_another_gradient_is_as_large_as_what_is_trained() -> None:
    memory, again = counted(another_gradient(4)), counted(another_gradient())
    assert memory.own == again.own == 2 * FULL.gradients
    assert memory.flops_per_token == 1.5 * FULL.flops_per_token  # 4 on top of a batch of 8
    assert again.flops_per_token == 2 * FULL.flops_per_token
    beside_a_mask = counted(another_gradient(4), beside=FGGM())
    masks = total(FGGM(), SHAPES)
    assert beside_a_mask.own - masks.own == 2 * masks.base.gradients
    assert beside_a_mask.flops_per_token < memory.flops_per_token


def test_a_gradient_of_each_earlier_stage() -> None:
    for earlier in (0, 3):
        cost = counted(gradient_of_each(4), earlier=earlier)
        assert cost.own == cost.set_aside == (1 + earlier) * FULL.gradients
        assert cost.flops_per_token == (1 + earlier / 2) * FULL.flops_per_token


@pytest.mark.parametrize("method", [AGEM, GEM])
def test_gradients_set_aside_in_an_update_are_those_that_are_counted(
    memory: Any, method: type[Method], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes of all tensors at the fullest moment of an update, against those at its beginning."""
    live: list[int] = []
    before_step, zero_grad = method.before_step, SelectiveUpdate.zero_grad

    def count() -> None:
        live.append(sum(size for size, _ in memory.live_storages().values()))

    def first(self: Any, step: Any) -> None:
        live.clear()
        count()
        before_step(self, step)

    def within(self: Any) -> None:  # `gradient_of` empties the engine's when it has copied them
        zero_grad(self)
        count()

    monkeypatch.setattr(method, "before_step", first)
    monkeypatch.setattr(SelectiveUpdate, "zero_grad", within)
    past = [("a", examples("a", 4)), ("b", examples("b", 4))]
    stage, batcher = make_stage(tiny_model(), examples("new", 4), TRAIN, 3, past)
    run_method(method(), stage, batcher, epochs=1)
    expected = total(method(), SHAPES, earlier=len(past)).set_aside
    assert max(live) - live[0] == pytest.approx(expected, rel=0.05)


def test_what_is_kept_or_scored_apart_is_on_disk() -> None:
    assert counted(kept(100, saved=True)).checkpoint == FULL.checkpoint + 100
    assert counted(kept(100)).checkpoint == FULL.checkpoint
    assert counted(kept(100)).memory == counted(Cost()).memory + 100
    assert counted(Cost(disk=Disk(models=2))).checkpoint == 3 * FULL.checkpoint
    assert counted(Cost(work=Work(generated=7))).generation_flops == 7 * 2 * SHAPES.products


def test_a_part_that_restricts_nothing_leaves_the_base_to_the_other() -> None:
    norms = only(SHAPES, lambda name: "norm" in name)
    for trained, expected in ((None, FGGM().trains(SHAPES)), (FULL, FULL)):
        assert counted(Cost(), trained, beside=FGGM()).base == expected
    assert counted(Cost(), norms).base == norms


@pytest.mark.parametrize(
    ("added", "trained", "said"),
    [
        (None, None, "mine: adds returned NoneType, not a Cost"),
        (12, None, "mine: adds returned int, not a Cost"),
        (Cost(), 0.3, "mine: trains returned float, not a Trained"),
        (Cost(), Cost(), "mine: trains returned Cost, not a Trained"),
        (kept(-1), None, "mine: adds: held is below 0"),
        (Cost(work=Work(per_token=-5)), None, "mine: adds: per_token is below 0"),
    ],
)
def test_hooks_that_answer_something_else_are_named(added: Any, trained: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        counted(added, trained)


@example(count=91, hundredths=70, double=True)
@given(count=st.integers(1, 400), hundredths=st.integers(0, 99), double=st.booleans())
def test_what_is_counted_above_a_quantile_is_above_it(
    count: int, hundredths: int, double: bool
) -> None:
    """0.7 * 90 is 62.99999999999999 in floats: the place is a whole one all the same."""
    values = torch.randperm(count).to(torch.float64 if double else torch.float32)
    q = hundredths / 100
    assert int((values > quantile(values, q)).sum()) == above_quantile(count, q)
    exact = count - 1 - hundredths * (count - 1) // 100
    assert above_quantile(count, q) == exact


def test_a_mask_counts_what_its_own_alpha_leaves() -> None:
    share = masked(SHAPES, 0.0, "rows", embeddings=True)
    rows = [shape for name, shape in SHAPES.parameters.items() if name not in SHAPES.embeddings]
    missing = sum(shape[1] if len(shape) == 2 else 1 for shape in rows)
    assert share.entries == SHAPES.numel - missing  # alpha 0 leaves out the lowest score alone

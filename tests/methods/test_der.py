"""DER and DER++ against stored logits, draws and gradients written out plainly."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.data.examples import Example
from cl_bench.data.tokens import Encoded
from cl_bench.methods.base import Method
from cl_bench.methods.der import DER, DEROptions
from cl_bench.methods.sft import SFT
from cl_bench.training.loss import answer_logits
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    all64,
    assert_close,
    encode,
    make_stage,
    reference_training,
    run_method,
    sample_loss,
    weights,
)
from tests.helpers.sequences import run_sequence


def der(**options: Any) -> Callable[[], Method]:
    return lambda: DER(DEROptions.model_validate(options))


def answers(model: nn.Module, item: Encoded) -> Tensor:
    """Logits [answer tokens, V] of one example."""
    logits: Tensor = model(input_ids=torch.tensor([item.input_ids])).logits[0]
    return logits[item.prompt_length - 1 : len(item.input_ids) - 1]


def plainly(distance: Callable[[Tensor, Tensor], Tensor], kept: list[Example]) -> nn.Module:
    """Two stages with alpha 2, beta 0.5 and draws of 3; `distance` is of the logits of a token."""
    model = all64(layers=1)
    reference_training(model, OLD, TRAIN, 2)
    stored = {e.doc_id: answers(model, *encode([e], TRAIN)).detach() for e in kept}
    draws = make_stage(model, NEW, TRAIN, 2)[0].generator("der")

    def rehearse(gradients: Gradients) -> None:
        names = list(gradients)
        for term in ("distance", "loss"):
            drawn = [kept[i] for i in torch.randperm(len(kept), generator=draws)[:3].tolist()]
            items = encode(drawn, TRAIN)
            total = torch.zeros((), dtype=torch.float64)
            for example, item in zip(drawn, items, strict=True):
                if term == "distance":
                    now = answers(model, item)
                    for own, old in zip(now, stored[example.doc_id], strict=True):
                        total = total + 2.0 * distance(own, old)
                else:
                    total = total + 0.5 * sample_loss(model, item)
            mean = total / sum(item.answer_tokens for item in items)
            found = torch.autograd.grad(mean, [model.get_parameter(name) for name in names])
            for name, more in zip(names, found, strict=True):
                gradients[name] += more

    reference_training(model, NEW, TRAIN, 2, index=2, before_step=rehearse)
    return model


def whole(own: Tensor, old: Tensor) -> Tensor:
    return (own - old).square().mean()


def largest_four(own: Tensor, old: Tensor) -> Tensor:
    order = old.argsort(descending=True)
    parts = [(own[i] - old[i]).square() for i in order[:4]]
    masses = [torch.stack([z[i] for i in order[4:]]).exp().sum().log() for z in (own, old)]
    return (sum(parts) + (masses[0] - masses[1]).square()) / 5


@pytest.mark.parametrize(("top_k", "distance"), [(None, whole), (258, whole), (4, largest_four)])
def test_der_rehearses_with_the_logits_that_were_stored(top_k: int, distance: Any) -> None:
    """All logits; all but one, whose mass is itself; and few."""
    make = der(alpha=2.0, memory=5, draw=3, top_k=top_k)
    first, second = run_sequence(make, all64(layers=1), (OLD, NEW), TRAIN, 2)
    rows = first.state.records["der/old"]
    kept = [OLD[place] for place, _ in rows]
    assert len(kept) == 5 < len(OLD)
    expected = plainly(distance, kept)
    assert_close(second.weights, weights(expected))
    assert list(second.state.records) == ["der/old", "der/new"]
    for name, table in first.state.tensors.items():  # later stages leave them as they are
        assert torch.equal(second.state.tensors[name], table)
        assert len(table) == sum(count for _, count in rows)


@pytest.mark.parametrize("options", [{"memory": 0}, {"alpha": 0, "beta": 0}])
def test_without_memory_or_weights_it_is_plain_fine_tuning(options: dict[str, Any]) -> None:
    *_, plain = run_sequence(SFT, all64(layers=1), (OLD, NEW), TRAIN)
    first, ours = run_sequence(der(**options), all64(layers=1), (OLD, NEW), TRAIN)
    assert_close(ours.weights, plain.weights, 0)
    assert bool(first.state) == bool(options.get("memory", 1))


def test_answers_that_a_later_stage_cuts_elsewhere() -> None:
    """Tokens that were stored are compared; others have no distance, and count in the mean."""
    model = all64(layers=1)
    long = [Example(f"say {i}: ", "abcdef", i, "old", "generate") for i in range(2)]
    longer = TRAIN.model_copy(update={"max_answer_tokens": 7})
    for then, now in ((TRAIN, longer), (longer, TRAIN)):
        method = DER(DEROptions(beta=0, top_k=None))
        run_method(method, *make_stage(copy.deepcopy(model), long, then), 1)
        other = copy.deepcopy(model)
        stage, _ = make_stage(other, NEW, now, 2, [("old", long)])
        method.prepare(stage)
        for batch in stage.batches(long):
            outputs = answer_logits(other, batch)
            found = method._distance(batch, outputs)
            total = torch.zeros((), dtype=torch.float64)
            for row, number in enumerate(batch["example"].tolist()):
                old = method._tables[number]["logits"]
                own = outputs.logits[outputs.rows == row]
                for a, b in zip(own, old, strict=False):
                    total += whole(a, b).detach()
            assert float(found - total / len(outputs.labels)) == pytest.approx(0, abs=1e-12)

"""DER++ against stored logits and gradients written out plainly."""

from __future__ import annotations

import torch

from cl_bench.data.examples import Example
from tests.helpers.reference import (
    Gradients,
    assert_close,
    encode,
    make_stage,
    reference_training,
    sample_loss,
    weights,
)
from tests.methods.contract.helpers import NEW, OLD, TRAIN, model64, two_stages


def test_der_rehearses_with_the_logits_of_the_same_examples() -> None:
    expected = model64()
    reference_training(expected, OLD, TRAIN, 2)
    buffer = make_stage(expected, OLD, TRAIN)[0].sample(4, "buffer")
    assert 4 == len(buffer) < len(OLD)
    items = encode(buffer, TRAIN)

    def answers(item) -> torch.Tensor:  # type: ignore[no-untyped-def]
        logits = expected(input_ids=torch.tensor([item.input_ids])).logits[0]
        return logits[item.prompt_length - 1 : len(item.input_ids) - 1]

    stored = [answers(item).detach() for item in items]
    tokens = sum(len(old) for old in stored)

    def rehearse(gradients: Gradients) -> None:
        total = torch.zeros((), dtype=torch.float64)
        for item, old in zip(items, stored, strict=True):
            total = total + 2.0 * (answers(item) - old).square().mean(-1).sum()
            total = total + 0.5 * sample_loss(expected, item)
        found = torch.autograd.grad(
            total / tokens, [expected.get_parameter(name) for name in gradients]
        )
        for gradient, more in zip(gradients.values(), found, strict=True):
            gradient += more

    reference_training(expected, NEW, TRAIN, 2, index=2, before_step=rehearse)
    first, second = two_stages("derpp", model64(), epochs=2, alpha=2.0)
    assert first.state.records["derpp/kept"] == [[e.task, e.doc_id] for e in buffer]
    assert_close(weights(second.model), weights(expected), 1e-7)
    assert len(second.state.records["derpp/kept"]) == 8 == len(second.state.tensors["derpp/logits"])


def test_numbers_name_examples_through_a_stage() -> None:
    """Own from 0 in order, then earlier ones, then new ones as they come; in every batch."""
    stage, _ = make_stage(model64(), NEW, TRAIN, 2, [("old", OLD)])
    made = Example("made ", "up", -1, "new", "generate")
    assert [stage.number(example) for example in NEW] == list(range(len(NEW)))
    assert stage.number(OLD[2]) == len(NEW) + 2
    seen = torch.cat([batch["example"] for batch in stage.batches([made, OLD[0], NEW[5]])])
    assert sorted(seen.tolist()) == [5, len(NEW), len(NEW) + len(OLD)]
    assert stage.example(int(max(seen))) is made and stage.example(5) is NEW[5]
    for batch in stage.batches(NEW):
        for ids, number in zip(batch["input_ids"], batch["example"], strict=True):
            (item,) = encode([stage.example(int(number))], TRAIN)
            assert ids[: len(item)].tolist() == item.input_ids

"""A-GEM against projections written out plainly, on memories that do conflict."""

from __future__ import annotations

import copy

import torch

from cl_bench.data.examples import Example
from cl_bench.methods.agem import AGEM, AGEMOptions
from cl_bench.methods.memory import memories
from cl_bench.methods.sft import SFT
from tests.helpers.reference import TRAIN as PLAIN
from tests.helpers.reference import (
    Gradients,
    assert_close,
    encode,
    make_stage,
    model64,
    reference_training,
    run_method,
    sample_loss,
    weights,
)

OLD = [Example(f"say {i}: ", "aa", i, "old", "generate") for i in range(4)]
NEW = [Example(f"say {i}: ", "zzz", i, "new", "generate") for i in range(5)]
"""The same prompts with other answers."""
TRAIN = PLAIN.model_copy(update={"lr": 2e-2, "batch_size": 8})


def test_agem_projects_off_the_gradient_of_a_memory_that_it_opposes() -> None:
    expected = model64(layers=1)
    reference_training(expected, OLD, TRAIN, 6)
    model = copy.deepcopy(expected)
    stage, batcher = make_stage(model, NEW, TRAIN, 2, [("old", OLD)])
    kept = memories(stage, "agem", 3)[0]
    draws = stage.generator("agem")
    products = []

    def project(gradients: Gradients) -> None:
        some = [kept[i] for i in torch.randperm(len(kept), generator=draws)[:2].tolist()]
        items = encode(some, TRAIN)
        loss = sum(sample_loss(expected, item) for item in items)
        loss = loss / sum(item.answer_tokens for item in items)
        found = torch.autograd.grad(loss, [expected.get_parameter(name) for name in gradients])
        pairs = list(zip(gradients.values(), found, strict=True))
        product = sum(float((g * m).sum()) for g, m in pairs)
        products.append(product)
        if product < 0:
            size = sum(float(m.square().sum()) for m in found)
            for g, m in pairs:
                g -= product / size * m
            assert abs(sum(float((g * m).sum()) for g, m in pairs)) < 1e-9

    reference_training(expected, NEW, TRAIN, 4, index=2, before_step=project)
    run_method(AGEM(AGEMOptions(memory=3, draw=2)), stage, batcher, 4)
    assert stage.notes["projected"] == sum(p < 0 for p in products)
    assert_close(weights(model), weights(expected))
    assert any(p < 0 for p in products), "nothing was projected: the test shows nothing"


def test_without_a_memory_it_is_plain_fine_tuning() -> None:
    plain = model64(layers=1)
    ours, first = copy.deepcopy(plain), copy.deepcopy(plain)
    run_method(SFT(), *make_stage(plain, NEW, TRAIN, 2, [("old", OLD)]), 2)
    run_method(AGEM(AGEMOptions(memory=0)), *make_stage(ours, NEW, TRAIN, 2, [("old", OLD)]), 2)
    run_method(AGEM(), *make_stage(first, NEW, TRAIN, 2), 2)
    assert_close(weights(ours), weights(plain), 0)
    assert_close(weights(first), weights(plain), 0)


def test_a_memory_is_the_same_in_all_later_stages() -> None:
    older = [Example(str(i), "a", i, "older", "generate") for i in range(9)]
    stage, _ = make_stage(model64(layers=1), NEW, TRAIN, 3, [("older", older), ("old", OLD)])
    before, _ = make_stage(model64(layers=1), OLD, TRAIN, 2, [("older", older)])
    found = memories(stage, "agem", 5)
    assert [len(one) for one in found] == [5, 4]
    assert found[:1] == memories(before, "agem", 5)
    assert {e.doc_id for e in memories(before, "agem", 2)[0]} < {e.doc_id for e in found[0]}

"""PIECE against masks made by sorting all scores of a plain loop; the search for the threshold."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch

from cl_bench.importance.largest import largest
from cl_bench.methods.piece import PIECE, PIECEOptions
from tests.helpers.reference import (
    NEW,
    TRAIN,
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 7, 100, 299, 300, 301])
def test_the_largest_are_those_of_a_sort(dtype: torch.dtype, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    exponents = torch.randint(-30, 30, (300,), generator=generator)
    values = torch.rand(300, generator=generator, dtype=dtype) * 10.0**exponents
    scores = {"a": values[:100].view(10, 10), "b": values[100:101], "c": values[101:]}
    masks = largest(scores, count)
    chosen = torch.cat([masks[name].flatten() for name in scores])
    expected = torch.zeros(300, dtype=torch.bool)
    expected[values.argsort(descending=True)[:count]] = True
    assert torch.equal(chosen, expected)


def test_of_equal_scores_the_first_are_chosen_and_no_zeros() -> None:
    scores = {"a": torch.tensor([0.0, 2.0, 1.0]), "b": torch.tensor([1.0, 3.0, 1.0, 0.0])}
    for count, expected in ((3, [0, 1, 1, 0, 1, 0, 0]), (4, [0, 1, 1, 1, 1, 0, 0])):
        found = largest(scores, count)
        assert torch.cat([found["a"], found["b"]]).int().tolist() == expected
    found = largest(scores, 6)
    assert torch.cat([found["a"], found["b"]]).int().tolist() == [0, 1, 1, 1, 1, 1, 0]


def masks_by_sorting(model: Any, options: PIECEOptions) -> Gradients:
    """Every batch's gradient by a loop over its examples, all scores in one sorted list."""
    stage, _ = make_stage(model, NEW, TRAIN)
    order = torch.randperm(len(NEW), generator=stage.generator("piece")).tolist()
    named = dict(model.named_parameters())
    squares = {name: torch.zeros_like(p) for name, p in named.items()}
    sums = {name: torch.zeros_like(p) for name, p in named.items()}
    for start in range(0, len(NEW), options.score_batch):
        items = encode([NEW[i] for i in order[start : start + options.score_batch]], TRAIN)
        loss = sum(sample_loss(model, item) for item in items)
        loss = loss / sum(item.answer_tokens for item in items)
        for name, gradient in zip(named, torch.autograd.grad(loss, [*named.values()]), strict=True):
            squares[name] += gradient**2
            sums[name] += gradient
    scores = squares
    if options.score == "second_order":
        scores = {name: sums[name].abs() / (squares[name] + 1).sqrt() for name in named}
    scores["model.embed_tokens.weight"].zero_()
    flat = torch.cat([score.flatten() for score in scores.values()])
    count = math.ceil(options.ratio * flat.numel())
    least = flat.sort(descending=True).values[count - 1]
    return {name: (score >= least).double() for name, score in scores.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.01},
        {"ratio": 0.01, "score": "second_order"},
        {"ratio": 0.2, "score_batch": 1},
    ],
)
@pytest.mark.parametrize("tie", [False, True])
def test_piece_trains_the_most_important_entries_alone(options: dict[str, Any], tie: bool) -> None:
    start = model64(tie=tie, kind="qwen2")
    masks = masks_by_sorting(copy.deepcopy(start), PIECEOptions(**options))
    expected, model = copy.deepcopy(start), copy.deepcopy(start)

    def mask(gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            gradient *= masks[name]

    reference_training(expected, NEW, TRAIN, 2, before_step=mask)
    stage, batcher = make_stage(model, NEW, TRAIN)
    run_method(PIECE(PIECEOptions(**options)), stage, batcher, epochs=2)
    assert_close(weights(model), weights(expected))
    before = weights(start)
    untouched = [name for name, one in masks.items() if not bool(one.any())]
    assert "model.embed_tokens.weight" in untouched
    for name, value in weights(model).items():
        frozen = masks[name] == 0
        assert torch.equal(value[frozen], before[name][frozen]), name
    assert stage.notes["tensors"] == len(masks) - len(untouched)
    assert stage.notes["trained_share"] == pytest.approx(options["ratio"], rel=0.01)


def test_both_scores_choose_differently_and_a_sample_is_enough() -> None:
    model = model64()
    one, other = (
        masks_by_sorting(model, PIECEOptions(ratio=0.05, score=score))  # type: ignore[arg-type]
        for score in ("fisher", "second_order")
    )
    assert any(not torch.equal(one[name], other[name]) for name in one)
    stage, _ = make_stage(model, NEW, TRAIN)
    seen: list[int] = []
    share = stage.share
    stage.share = lambda given, numbers: (seen.extend(numbers), share(given, numbers))[1]
    assert PIECE(PIECEOptions(score_examples=5)).plan(stage).selections
    assert len(seen) == len(set(seen)) == 5

"""FGGM's further options against dense loops (float64, within 1e-9)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.config.schema import ExperimentConfig
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.estimates import fisher_of
from cl_bench.methods.fggm import FGGM, FGGMOptions
from tests.helpers.reference import (
    NEW,
    TRAIN,
    Gradients,
    all64,
    assert_close,
    encode,
    fisher_loop,
    make_stage,
    model64,
    reference_training,
    run_method,
    sample_loss,
    weights,
)


def fggm(**options: Any) -> FGGM:
    return FGGM(FGGMOptions.model_validate(options))


def trained(start: nn.Module, method: FGGM, epochs: int = 2) -> tuple[Gradients, dict[str, Any]]:
    """The weights after training with the package, and the notes."""
    model = copy.deepcopy(start)
    stage, batcher = make_stage(model, NEW, TRAIN)
    run_method(method, stage, batcher, epochs)
    return weights(model), stage.notes


def masked_by_hand(start: nn.Module, masks: Gradients, epochs: int = 2) -> Gradients:
    """Dense training with gradients times masks, and nothing moved where the mask is 0."""
    model = copy.deepcopy(start)

    def mask(gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            gradient *= masks[name]

    reference_training(model, NEW, TRAIN, epochs, before_step=mask)
    return weights(model)


def is_embedding(name: str) -> bool:
    return "embed_tokens" in name or "lm_head" in name


def rows_of(score: Tensor) -> Tensor:
    """Row sums that broadcast; vectors as they are."""
    return score.sum(1, keepdim=True) if score.dim() == 2 else score


def batches_by_hand(model: nn.Module, order: list[int]) -> Gradients:
    """Sum over batches of four of the squared gradient of the mean loss over answer tokens."""
    model, items = copy.deepcopy(model).eval(), encode(NEW, TRAIN)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for begin in range(0, len(order), 4):
        batch = [items[i] for i in order[begin : begin + 4]]
        tokens = sum(len(item.input_ids) - max(item.prompt_length, 1) for item in batch)
        model.zero_grad()
        torch.stack([sample_loss(model, item) for item in batch]).sum().div(tokens).backward()
        for name, parameter in model.named_parameters():
            total[name] += parameter.grad**2 if parameter.grad is not None else 0
    return total


@pytest.mark.parametrize("micro", [1, 3, "auto"])
def test_batches_are_squared_whole(micro: Any) -> None:
    model = all64(tie=micro == 3)
    train = TRAIN.model_copy(update={"micro_batch_size": micro})
    stage, _ = make_stage(model, NEW, train)
    order = torch.randperm(len(NEW), generator=stage.generator("fggm batches")).tolist()
    expected = batches_by_hand(model, order)
    names = list(expected)
    for granularity, dim in (("rows", 1), ("columns", 0), ("elements", None)):
        found, count = fisher_of(stage, "fggm", "batch", granularity, None, names)  # type: ignore[arg-type]
        assert count == 3
        sums = {
            name: value.sum(dim) if value.dim() == 2 and dim is not None else value
            for name, value in expected.items()
        }
        assert_close(found, sums)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    _, few = fisher_of(stage, "fggm", "batch", "rows", 5)
    assert few == 2


def test_a_mask_from_batches_is_what_trains() -> None:
    start = model64()
    stage, _ = make_stage(start, NEW, TRAIN)
    order = torch.randperm(len(NEW), generator=stage.generator("fggm batches")).tolist()
    masks = quantile_masks(batches_by_hand(start, order))
    assert_close(trained(start, fggm(estimator="batch"))[0], masked_by_hand(start, masks))


def quantile_masks(scores: Gradients, embeddings: bool = False, sign: int = 1) -> Gradients:
    """1 where the row's (vector's entry's) score is above its 0.7-quantile."""
    masks = {}
    for name, score in scores.items():
        rows = sign * rows_of(score)
        keep = (rows > torch.quantile(rows.flatten(), 0.7)).to(score)
        frozen = is_embedding(name) and not embeddings
        masks[name] = torch.zeros_like(score) if frozen else keep.expand_as(score)
    return masks


def test_the_control_trains_the_rows_with_least_fisher() -> None:
    start = model64()
    masks = quantile_masks(fisher_loop(copy.deepcopy(start), encode(NEW, TRAIN)), sign=-1)
    assert_close(trained(start, fggm(score="lowest"))[0], masked_by_hand(start, masks))


@pytest.mark.parametrize("tie", [False, True])
def test_rows_of_embeddings_are_masked_as_others(tie: bool) -> None:
    start = model64(tie=tie)
    masks = quantile_masks(fisher_loop(copy.deepcopy(start), encode(NEW, TRAIN)), embeddings=True)
    found, _ = trained(start, fggm(embeddings="rows"))
    assert_close(found, masked_by_hand(start, masks))
    before = start.get_parameter("model.embed_tokens.weight")
    moved = (found["model.embed_tokens.weight"] != before).any(1)
    assert 0 < int(moved.sum()) <= 0.31 * len(moved)


def partial(
    start: nn.Module,
    shares: Callable[[int, Gradients], Gradients],
    hard: bool,
    epochs: int = 2,
) -> Gradients:
    """Dense training of which each step takes a share; `shares(update, gradients)` gives it."""
    model = copy.deepcopy(start)
    before: Gradients = {}
    now: Gradients = {}
    updates = 0

    def begin(gradients: Gradients) -> None:
        nonlocal updates
        now.update(shares(updates, {name: g.clone() for name, g in gradients.items()}))
        updates += 1
        for name, gradient in gradients.items():
            if is_embedding(name) or hard:
                gradient *= now[name]
        before.update(weights(model))

    def end() -> None:
        for name, parameter in model.named_parameters():
            step = parameter.data - before[name]
            parameter.data = before[name] + now[name] * step

    reference_training(model, NEW, TRAIN, epochs, before_step=begin, after_step=end)
    return weights(model)


def soft_shares(scores: Gradients) -> Gradients:
    found = {}
    for name, score in scores.items():
        rows = rows_of(score)
        share = (rows / torch.quantile(rows.flatten(), 0.7)).clamp(max=1)
        found[name] = torch.zeros_like(score) if is_embedding(name) else share.expand_as(score)
    return found


def test_a_soft_mask_shortens_steps() -> None:
    start = model64()
    shares = soft_shares(fisher_loop(copy.deepcopy(start), encode(NEW, TRAIN)))
    found, notes = trained(start, fggm(mask="soft"))
    assert_close(found, partial(start, lambda *_: shares, hard=False))
    assert 0.3 < notes["step_share"] < 1
    moved = found["model.layers.0.mlp.up_proj.weight"] != start.get_parameter(
        "model.layers.0.mlp.up_proj.weight"
    )
    assert float(moved.double().mean()) > 0.9


def test_shortened_steps_are_in_the_weights_of_a_16_bit_model() -> None:
    last: Gradients = {}

    class Watched(FGGM):
        def after_step(self, masters: Any) -> bool:
            changed = super().after_step(masters)
            last.update({name: value.clone() for name, value in masters.items()})
            return changed

    method = Watched(FGGMOptions(mask="soft"))
    found, _ = trained(model64().to(torch.bfloat16), method, epochs=1)
    for name, value in last.items():
        assert torch.equal(found[name], value.to(torch.bfloat16)), name


@pytest.mark.parametrize("mask", ["hard", "soft"])
def test_a_renewed_mask_follows_the_running_average(mask: str) -> None:
    start = model64()
    first = fisher_loop(copy.deepcopy(start), encode(NEW, TRAIN))
    make = quantile_masks if mask == "hard" else soft_shares
    running: Gradients = {name: torch.zeros_like(value) for name, value in first.items()}
    now: Gradients = make(first)
    kinds: list[Gradients] = []

    def shares(updates: int, gradients: Gradients) -> Gradients:
        nonlocal now
        if updates and updates % 2 == 0:
            now = make(running)
            kinds.append(now)
        for name, gradient in gradients.items():
            running[name] = 0.95 * running[name] + (1 - 0.95) * gradient**2
        return now

    found, _ = trained(start, fggm(mask=mask, refresh=2))
    assert_close(found, partial(start, shares, hard=mask == "hard"))
    assert len(kinds) == 2 and any(
        not torch.equal(kinds[0][name], kinds[1][name]) for name in running
    )


@pytest.mark.parametrize("aggregation", ["input", "output", "none"])
def test_a_mask_that_is_never_renewed_is_the_static_one(aggregation: str) -> None:
    start = model64()
    static, _ = trained(start, fggm(aggregation=aggregation))
    renewed, _ = trained(start, fggm(aggregation=aggregation, refresh=100))
    assert_close(renewed, static)
    for name, value in weights(start).items():
        assert torch.equal(static[name] == value, renewed[name] == value), name


def test_a_soft_mask_without_a_threshold_is_plain_training() -> None:
    start = model64()
    expected = copy.deepcopy(start)
    reference_training(expected, NEW, TRAIN, 2)
    found, _ = trained(start, fggm(mask="soft", alpha=0.0, embeddings="full"))
    assert_close(found, weights(expected))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"refresh": 2, "score": "random"}, "refresh: score: random"),
        ({"mask": "soft", "score": "lowest"}, "mask: soft: score: lowest"),
        ({"embeddings": "rows", "aggregation": "none"}, "embeddings: rows: aggregation: none"),
        ({"refresh": 2, "mask": "soft", "embeddings": "rows"}, None),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], said: str | None) -> None:
    entry = {"name": "fggm", **options}
    data = {"name": "x", "model": {"path": "m"}, "methods": [entry], "stages": [{"task": "FOMC"}]}
    stage = resolve(ExperimentConfig.model_validate(data)).runs[0].stages[0]
    faults = list(stage.build_method().refuses(stage))
    assert (faults == []) if said is None else faults[0].startswith(said)

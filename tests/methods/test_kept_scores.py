"""What methods keep of their scores, and of either half of the examples, against plain loops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cl_bench.data.examples import Example
from cl_bench.importance.contributions import contributions_of
from cl_bench.methods.base import Method
from cl_bench.methods.compose import Composite
from cl_bench.methods.das import DAS
from cl_bench.methods.ewc import EWC
from cl_bench.methods.fggm import FGGM
from cl_bench.methods.loki import LoKI
from cl_bench.methods.lora import LoRA
from cl_bench.methods.migu import MIGU
from cl_bench.methods.piece import PIECE
from cl_bench.methods.registry import method_class
from cl_bench.training.kept_scores import SAMPLE, sampled_entries, small_scores
from cl_bench.training.selections import Kept, kept_selections
from tests.helpers.cases import configured
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    Gradients,
    all64,
    encode,
    examples,
    make_stage,
    model64,
    run_method,
    sample_loss,
)
from tests.helpers.sequences import Shelf

UP, NORM = "model.layers.0.mlp.up_proj.weight", "model.layers.1.input_layernorm.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"


def kept_by(
    make: Callable[[], Method],
    model: nn.Module,
    items: Sequence[Example] = NEW,
    passes: int = 1,
) -> dict[str, Kept]:
    """What a stage after another leaves, whose examples are seen so often beside training."""
    stage, batcher = make_stage(model, list(items), TRAIN, 2, [("old", OLD)])
    seen: list[int] = []
    share = stage.share

    def counted(given: Any, numbers: Any) -> Any:
        seen.extend(numbers)
        return share(given, numbers)

    stage.share = counted
    stage.library = Shelf([copy.deepcopy(model).state_dict()] * 2)
    run_method(make(), stage, batcher, epochs=1)
    own = [number for number in seen if number < len(items)]
    assert all(own.count(number) <= passes for number in own), "an example is scored twice"
    return kept_selections(stage.selection)


def half_of(stage: Any, purpose: str, count: int) -> list[int]:
    order = torch.randperm(count, generator=stage.generator(purpose)).tolist()
    return order[: count // 2]


def fisher(model: nn.Module, items: Sequence[Any]) -> Gradients:
    """Squared gradients of every example's log-likelihood, summed."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for item in items:
        model.zero_grad()
        sample_loss(model, item).backward()
        for name, parameter in model.named_parameters():
            total[name] += parameter.grad**2
    return total


def summed(score: Tensor, kind: str) -> Tensor:
    """Sums over a row or a column by a loop."""
    lines = score if kind == "rows" else score.T
    return torch.tensor([sum(float(value) for value in line) for line in lines]).double()


def assert_kept(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(
        found.double(), expected / expected.abs().max(), rtol=2e-3, atol=2e-7
    )


@pytest.mark.parametrize("aggregation", ["input", "output", "none"])
@pytest.mark.parametrize("sign", [1, -1])
def test_fisher_of_both_halves(aggregation: str, sign: int) -> None:
    model = all64()
    score = "fisher" if sign == 1 else "lowest"
    kept = kept_by(configured(FGGM, aggregation=aggregation, score=score), copy.deepcopy(model))
    stage, _ = make_stage(model, NEW, TRAIN, 2)
    chosen, items = half_of(stage, "fggm halves", len(NEW)), encode(NEW, TRAIN)
    parts = [[items[i] for i in range(9) if (i in chosen) is half] for half in (True, False)]
    assert [len(part) for part in parts] == [4, 5]
    halves = [fisher(model, part) for part in parts]
    whole = fisher(model, items)
    kinds = {"input": ["rows"], "output": ["columns"], "none": ["rows", "columns"]}[aggregation]
    assert set(kept[UP].scores) == {*kinds, *(["entries"] if aggregation == "none" else [])}
    for kind in kinds:
        assert_kept(kept[UP].scores[kind], sign * summed(whole[UP], kind))
        for own, half in zip(kept[UP].halves[kind], halves, strict=True):
            assert_kept(own, sign * summed(half[UP], kind))
    for own, half in zip(kept[NORM].halves["entries"], halves, strict=True):
        assert_kept(own, sign * half[NORM])
    if aggregation == "none":
        places = sampled_entries(UP, whole[UP].numel())
        assert len(places) == SAMPLE and len(places.unique()) == SAMPLE
        for own, half in zip(kept[UP].halves["entries"], halves, strict=True):
            assert_kept(own, sign * half[UP].flatten()[places])


def test_batches_in_halves() -> None:
    model = all64()
    kept = kept_by(configured(FGGM, estimator="batch"), copy.deepcopy(model))
    stage, _ = make_stage(model, NEW, TRAIN, 2)
    order = torch.randperm(9, generator=stage.generator("fggm batches")).tolist()
    groups = [order[:4], order[4:8], order[8:]]
    (first,) = half_of(stage, "fggm halves", 3)
    items = encode(NEW, TRAIN)
    for half, own in zip((True, False), kept[UP].halves["rows"], strict=True):
        total = torch.zeros_like(model.get_parameter(UP))
        for number, group in enumerate(groups):
            if (number == first) is half:
                model.zero_grad()
                loss = sum(sample_loss(model, items[i]) for i in group)
                (loss / sum(items[i].answer_tokens for i in group)).backward()
                total += model.get_parameter(UP).grad ** 2
        assert_kept(own, summed(total, "rows"))


@pytest.mark.parametrize("score", ["fisher", "second_order"])
def test_piece_by_batches_before_and_after_the_middle(score: str) -> None:
    model = all64()
    kept = kept_by(configured(PIECE, score=score, score_batch=3), copy.deepcopy(model))
    stage, _ = make_stage(model, NEW, TRAIN, 2)
    order = torch.randperm(9, generator=stage.generator("piece")).tolist()
    items, places = encode(NEW, TRAIN), sampled_entries(UP, 64 * 32)
    parts = [[order[:3]], [order[3:6], order[6:]]]
    for part, own in zip(parts, kept[UP].halves["entries"], strict=True):
        squares = sums = torch.zeros(64, 32)
        for batch in part:
            model.zero_grad()
            loss = sum(sample_loss(model, items[i]) for i in batch)
            (loss / sum(items[i].answer_tokens for i in batch)).backward()
            gradient = model.get_parameter(UP).grad
            squares, sums = squares + gradient**2, sums + gradient
        expected = squares if score == "fisher" else sums.abs() / (squares + 1).sqrt()
        assert_kept(own, expected.flatten()[places].double())
    assert ("rows" in kept[UP].halves) is (score == "fisher") and "rows" in kept[UP].scores


def test_loki_keeps_how_often_rows_are_marked() -> None:
    model: Any = model64()
    kept = kept_by(configured(LoKI, share=0.25, steps=2), copy.deepcopy(model))[DOWN]
    stage, _ = make_stage(model, NEW, TRAIN, 2, [("old", OLD)])
    order = torch.randperm(len(OLD), generator=stage.generator("loki")).tolist()
    other = [OLD[i] for i in order]
    chosen = half_of(stage, "loki halves", len(OLD))
    layers = [layer.mlp.down_proj for layer in model.model.layers]
    marks = torch.zeros(2, 32, dtype=torch.float64)
    for i, example in enumerate(other):
        (batch,) = stage.batches([example])
        values = list(contributions_of(model, batch, layers, 2))[1][0].tolist()
        for row in sorted(range(32), key=lambda row: values[row])[:8]:
            marks[0 if i in chosen else 1, row] += 1
    for own, half in zip(kept.halves["rows"], marks, strict=True):
        assert_kept(own, half)
    assert_kept(kept.scores["rows"], marks.sum(0))
    most = sorted(range(32), key=lambda row: -float(marks.sum(0)[row]))[:8]
    assert kept.kind == "rows" and kept.chosen.nonzero().flatten().tolist() == sorted(most)


def test_migu_sums_magnitudes_over_updates() -> None:
    seen: list[Tensor] = []

    class Watched(MIGU):
        name = "watched"

        def before_step(self, step: Any) -> None:
            seen.append(self._magnitude[UP].clone().double())
            super().before_step(step)

    kept = kept_by(Watched, model64())
    assert len(seen) == 3
    assert_kept(kept[UP].scores["rows"], seen[0] + seen[1] + seen[2])
    assert_kept(kept[UP].halves["rows"][0], seen[0] + seen[2])
    assert_kept(kept[UP].halves["rows"][1], seen[1])


def test_ewc_keeps_the_fisher_of_its_stage_where_it_ends() -> None:
    model = all64()
    kept = kept_by(EWC, model)
    whole = fisher(model, encode(NEW, TRAIN))  # the model as the stage left it
    assert kept[UP].kind == "full" and kept[UP].trained == 64 * 32
    for kind in ("rows", "columns"):
        assert_kept(kept[UP].scores[kind], summed(whole[UP], kind))
    beside = kept_by(lambda: Composite([EWC(), FGGM()]), all64(), passes=2)
    assert set(beside[UP].scores) == {"rows"} and beside[UP].kind == "rows"
    assert kept_by(lambda: Composite([LoRA(), EWC()]), model64()) == {}


def test_das_keeps_its_stage_s_importance() -> None:
    method = DAS()
    kept = kept_by(lambda: method, model64())
    # Nothing came before this stage here, so that the largest of all stages is its own.
    inner = method.importance["inner"][0]
    assert_kept(kept[UP].scores["rows"], inner)
    assert "columns" in kept["model.layers.0.self_attn.o_proj.weight"].scores
    assert kept[UP].halves["rows"].shape == (2, 64)


def test_merges_keep_what_they_chose() -> None:
    for name, kind, chosen in (("fapm", "entries", 204), ("neuron_merge", "rows", 32)):
        model = model64()
        before = copy.deepcopy(model.get_parameter(UP).detach())
        kept = kept_by(method_class(name), model)
        assert kept[UP].kind == kind and int(kept[UP].chosen.sum()) == chosen
        moved = (model.get_parameter(UP) != before).flatten()
        everywhere = kept[UP].chosen.repeat_interleave(64 * 32 // kept[UP].chosen.numel())
        assert not (moved & ~everywhere).any() and int(moved.sum()) > 0.9 * kept[UP].trained


def test_too_few_examples_have_no_halves() -> None:
    kept = kept_by(FGGM, model64(), examples("new", 1))
    assert kept[UP].scores and not kept[UP].halves


def test_what_is_small_already_stays() -> None:
    model = model64()
    once = small_scores({UP: torch.rand(64, 32)}, model)
    assert small_scores(once, model) == once
    big = sampled_entries("a", 10**8)
    assert 1000 < len(big) <= SAMPLE and torch.equal(big, sampled_entries("a", 10**8))
    assert not torch.equal(big, sampled_entries("b", 10**8)) and int(big.diff().min()) > 0

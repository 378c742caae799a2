"""What stages trained, compared with sums in plain loops."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from cl_bench.results.selections import (
    Halves,
    ceiling,
    halves_alike,
    masks_alike,
    place_of,
    scores_alike,
    shares,
)
from cl_bench.results.weight_changes import changes
from cl_bench.training.kept_scores import sampled_entries, score_tensors, small_scores
from cl_bench.training.selections import Kept, kept_selections, selection_tensors
from cl_bench.training.update_plan import Columns, Elements, Frozen, Full, Rows, UpdatePlan
from tests.helpers.tiny import tiny_model

Q, K = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
NORM, UP = "model.layers.1.input_layernorm.weight", "model.layers.0.mlp.up_proj.weight"


def flags(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.bool)


def rows(chosen: torch.Tensor, scores: list[float] | None = None) -> Kept:
    own = {} if scores is None else {"rows": torch.tensor(scores)}
    return Kept("rows", (len(chosen), 2), chosen, own)


def test_what_is_written_is_read_again() -> None:
    model = tiny_model()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    mask = torch.rand(shapes[UP]) < 0.3
    vector = torch.rand(shapes[NORM]) < 0.5
    plan = UpdatePlan(
        {
            Q: Rows(torch.tensor([1, 3])),
            K: Columns(torch.tensor([0, 2, 5])),
            UP: Elements(mask),
            NORM: Elements(vector),
            "model.norm.weight": Full(),
        },
        default=Frozen(),
    )
    scores = {Q: torch.rand(shapes[Q][0]) * 1e-9, UP: torch.rand(shapes[UP]) * 1e9}
    small = score_tensors(small_scores(scores, model), None, model)
    kept = kept_selections(selection_tensors(plan, small, model))
    assert kept.keys() == shapes.keys()
    assert all(kept[name].shape == shape for name, shape in shapes.items())
    assert kept[Q].chosen.nonzero().flatten().tolist() == [1, 3]
    assert kept[K].chosen.nonzero().flatten().tolist() == [0, 2, 5]
    assert torch.equal(kept[UP].chosen.view(shapes[UP]), mask)
    assert torch.equal(kept[NORM].chosen, vector)
    assert kept[Q].trained == 2 * shapes[Q][1] and kept[K].trained == 3 * shapes[K][0]
    assert kept[UP].trained == int(mask.sum())
    full = kept["model.norm.weight"]
    assert full.trained == full.entries and kept["model.embed_tokens.weight"].trained == 0
    torch.testing.assert_close(
        kept[Q].scores["rows"], scores[Q] / scores[Q].max(), rtol=1e-3, atol=1e-7
    )
    for kind, across in (("rows", 1), ("columns", 0)):
        sums = scores[UP].sum(across)
        torch.testing.assert_close(kept[UP].scores[kind], sums / sums.max(), rtol=1e-3, atol=1e-7)


def test_masks_against_chance() -> None:
    """The chance is the mean over all orders of one mask, intersection and union apart."""
    first, second = flags(1, 1, 0, 0, 0), flags(0, 1, 1, 1, 0)
    found = masks_alike({Q: rows(first)}, {Q: rows(second)}, "rows")
    assert found.value == pytest.approx(1 / 4)
    orders = [torch.stack(order) for order in permutations(second)]
    shared = sum(int((first & order).sum()) for order in orders) / len(orders)
    assert found.chance == pytest.approx(shared / (5 - shared))
    other = {Q: rows(first), K: rows(flags(1, 0))}
    assert masks_alike(
        other, {Q: rows(second), K: rows(flags(1, 0))}, "rows"
    ).value == pytest.approx(2 / 5)
    assert masks_alike({Q: rows(first)}, {Q: rows(second)}, "columns").value is None


def test_scores_against_chance() -> None:
    a, b = [0.1, 0.5, 1.0, 0.2], [1.0, 0.25, 0.25, 0.0]
    every = torch.ones(4, dtype=torch.bool)
    found = scores_alike({Q: rows(every, a)}, {Q: rows(every, b)}, "rows")

    def cosine(x: list[float], y: list[float]) -> float:
        dot = sum(p * q for p, q in zip(x, y, strict=True))
        return dot / math.sqrt(sum(p * p for p in x) * sum(q * q for q in y))

    assert found.value == pytest.approx(cosine(a, b), rel=1e-6)
    orders = list(permutations(b))
    mean = sum(cosine(a, list(order)) for order in orders) / len(orders)
    assert found.chance == pytest.approx(mean, rel=1e-6)
    ra, rb = [0.0, 2.0, 3.0, 1.0], [3.0, 1.5, 1.5, 0.0]
    centred = [x - 1.5 for x in ra], [x - 1.5 for x in rb]
    assert found.ranks == pytest.approx(cosine(*centred), rel=1e-6)


def halved(chosen: torch.Tensor, halves: list[list[float]]) -> Kept:
    return Kept("rows", (len(chosen), 2), chosen, {}, {"rows": torch.tensor(halves)})


def test_a_stage_against_itself() -> None:
    """Rank correlations and masks of halves by loops; chance by all orders of the second mask."""
    a, b = [0.1, 0.5, 1.0, 0.2, 0.3], [1.0, 0.25, 0.6, 0.0, 0.3]
    c, d = [3.0, 2.0, 1.0], [2.0, 3.0, 1.0]
    stage = {
        Q: halved(flags(0, 1, 1, 0, 0), [a, b]),
        K: halved(flags(1, 0, 0), [c, d]),
        UP: rows(flags(1, 0)),  # without halves
        NORM: Kept("full", (2,), flags(), {}, {"rows": torch.tensor([[1.0, 2.0], [1.0, 2.0]])}),
    }

    def spearman(x: list[float], y: list[float]) -> float:
        places = [[sorted(one).index(value) for value in one] for one in (x, y)]
        gaps = sum((p - q) ** 2 for p, q in zip(*places, strict=True))
        return 1 - 6 * gaps / (len(x) * (len(x) ** 2 - 1))

    found = halves_alike(stage, "rows")
    r = (5 * spearman(a, b) + 3 * spearman(c, d) + 2 * 1) / 10
    assert found.ranks == pytest.approx(r) and found.reliability == pytest.approx(2 * r / (1 + r))
    # Q: {1, 2} and {0, 2}; K: {0} and {1}.
    assert found.masks.value == pytest.approx(1 / (3 + 2))
    shared = 2 * 2 / 5 + 1 * 1 / 3
    assert found.masks.chance == pytest.approx(shared / (4 + 2 - shared))
    assert halves_alike(stage, "columns").ranks is None
    perfect, none = Halves(masks_alike({}, {}, "rows"), 1.0), Halves(found.masks, -0.2)
    assert ceiling(found, perfect) == pytest.approx(math.sqrt(2 * r / (1 + r)))
    assert ceiling(found, none) is None


def test_reliability_is_that_of_twice_as_many_examples() -> None:
    """Spearman and Brown against halves that are as large as the whole: noise of half the size."""
    generator = torch.Generator().manual_seed(0)
    true = torch.randn(4000, generator=generator)

    def seen(noise: float) -> torch.Tensor:
        return true + noise * torch.randn(4000, generator=generator)

    half = {Q: halved(torch.ones(4000) > 0, torch.stack([seen(1), seen(1)]).tolist())}
    whole = {
        Q: halved(torch.ones(4000) > 0, torch.stack([seen(0.5**0.5), seen(0.5**0.5)]).tolist())
    }
    predicted = halves_alike(half, "rows").reliability
    measured = halves_alike(whole, "rows").ranks
    assert predicted == pytest.approx(measured, abs=0.02)
    assert predicted == pytest.approx(2 / 3, abs=0.03)


def test_masks_of_halves_for_experts_and_samples() -> None:
    """Every expert chooses for itself; of single entries those of the sample count."""
    chosen = flags(1, 1, 0, 0, 0, 1)
    one, other = [1.0, 2.0, 3.0, 9.0, 8.0, 7.0], [1.0, 3.0, 2.0, 9.0, 8.0, 7.0]
    stack = Kept("rows", (2, 3, 4), chosen, {}, {"rows": torch.tensor([one, other])})
    # The first expert: {2, 1} and {1, 2}; the second: {0} and {0}.
    assert halves_alike({Q: stack}, "rows").masks.value == 1.0
    entries = torch.arange(4096) % 4 == 0
    places = sampled_entries(UP, 4096)
    scores = torch.rand(2, len(places), generator=torch.Generator().manual_seed(0))
    kept = Kept("entries", (64, 64), entries, {}, {"entries": scores})
    count = sum(int(place) % 4 == 0 for place in places)
    sets = [
        set(sorted(range(len(places)), key=lambda i: -float(half[i]))[:count]) for half in scores
    ]
    found = halves_alike({UP: kept}, "entries").masks
    assert found.value == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))


def test_scores_of_a_square_matrix_are_named_by_what_was_chosen() -> None:
    model = tiny_model()
    small = score_tensors(small_scores({Q: torch.rand(32)}, model), None, model)
    for selection, kind in ((Rows, "rows"), (Columns, "columns")):
        plan = UpdatePlan({Q: selection(torch.tensor([1]))}, default=Frozen())
        kept = kept_selections(selection_tensors(plan, small, model))[Q]
        assert kept.kind == kind and set(kept.scores) == {kind}


def test_shares_by_layer_and_module() -> None:
    kept = {
        Q: rows(flags(1, 0, 0, 0)),
        K: rows(flags(1, 1, 1, 0)),
        UP: Kept("full", (4, 1), torch.zeros(0, dtype=torch.bool)),
        "model.embed_tokens.weight": Kept("frozen", (9, 2), torch.zeros(0, dtype=torch.bool)),
    }
    assert shares(kept, 0) == pytest.approx({"0": 6 / 12, "1": 6 / 8, "outside of layers": 0})
    by_module = {"model.embed_tokens": 0, "mlp.up_proj": 1, "self_attn.q_proj": 8 / 16}
    assert shares(kept, 1) == pytest.approx(by_module)
    assert place_of("transformer.h.11.mlp.c_fc.bias") == ("11", "mlp.c_fc.bias")


def test_changes_of_weights() -> None:
    before = {Q: torch.full((2, 2), 2.0), UP: torch.ones(3), K: torch.ones(2)}
    after = {Q: torch.full((2, 2), 2.5), UP: torch.ones(3), K: torch.tensor([1.0, 0.0])}
    found = changes(before, after)
    assert found == pytest.approx({"0": math.sqrt(4 * 0.25 / (16 + 3)), "1": math.sqrt(1 / 2)})

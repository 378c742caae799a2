"""What stages trained, compared with sums in plain loops."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from cl_bench.results.selections import (
    masks_alike,
    place_of,
    scores_alike,
    shares,
)
from cl_bench.results.weight_changes import changes
from cl_bench.training.selections import Kept, kept_selections, selection_tensors, small_scores
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
    kept = kept_selections(selection_tensors(plan, small_scores(scores, model), model))
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

"""Merges of whole weights against Python's floats, entry by entry."""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from cl_bench.methods.base import Method, Stage
from cl_bench.methods.fapm import forgetting_aware
from cl_bench.methods.merging import combined, largest, lerp, slerp
from cl_bench.methods.neuron_merge import _most_changed
from cl_bench.methods.registry import method_class
from cl_bench.models.layouts import Layout
from cl_bench.seeds import derive_seed
from tests.helpers.merged import (
    agreed,
    minus,
    on_the_arc,
    on_the_line,
    pruned_by_size,
    ties,
)
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    assert_close,
    make_stage,
    model64,
    run_method,
    weights,
)
from tests.helpers.sequences import Shelf

NAMES = ("model.norm.weight", "model.layers.0.self_attn.k_proj.weight", "lm_head.weight")
Gradients = dict[str, Tensor]


def build(name: str, **options: Any) -> Method:
    cls = method_class(name)
    return cls(cls.options_type.model_validate({k.rstrip("_"): v for k, v in options.items()}))


def near(model: nn.Module, seed: int, size: float) -> nn.Module:
    """A copy of which half of the entries are elsewhere."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=p.dtype)
            p += size * noise * (torch.rand(p.shape, generator=generator) < 0.5)
    return other


@pytest.fixture(scope="module")
def models() -> list[nn.Module]:
    """The base, the model after stage 1, and that after stage 2, which are not far apart."""
    base = model64(layers=1)
    one = near(base, 1, 0.02)
    return [base, one, near(one, 2, 0.05)]


def stage_of(models: list[nn.Module], start: str = "previous") -> Stage:
    """The third model where training of its stage has ended, the others before it."""
    stage, _ = make_stage(copy.deepcopy(models[-1]), NEW, TRAIN, len(models) - 1)
    stage.library = Shelf([weights(model) for model in models[:-1]])
    stage.start = start
    return stage


def finished(models: list[nn.Module], name: str, start: str = "previous", **options: Any) -> Any:
    """What a method makes of the last model: merged for training, and the same for scoring."""
    found = []
    for use in ("training", "scoring"):
        stage = stage_of(models, start)
        method = build(name, for_=use, **options)
        method.prepare(stage)
        method.finish(stage)
        ended = weights(stage.model)
        with method.scored(stage) as scored:
            found.append(weights(scored))
        assert_close(weights(stage.model), ended, 0.0)
        assert method.scores_another == (use == "scoring")
        if use == "scoring":
            assert_close(ended, weights(models[-1]), 0.0)
    return found


def check(found: Gradients, models: list[nn.Module], expected: Callable[..., list[float]]) -> None:
    """`expected` gets the entries of a tensor in each model."""
    for name in NAMES:
        entries = [weights(model)[name].flatten().tolist() for model in models]
        values = torch.tensor(expected(*entries), dtype=torch.float64)
        assert float((found[name].flatten() - values).abs().max()) < 1e-12, name


@pytest.mark.parametrize("other", ["previous", "base"])
@pytest.mark.parametrize("share", [0.3, 0.8])
def test_wise_and_slerp_lie_between_two_models(
    models: list[nn.Module], other: str, share: float
) -> None:
    def begin(base: Any, one: Any) -> Any:
        return base if other == "base" else one

    for found in finished(models, "wise", with_=other, alpha=share):
        check(found, models, lambda a, b, own: on_the_line(begin(a, b), own, share))
    for found in finished(models, "slerp", with_=other, t=share):
        check(found, models, lambda a, b, own: on_the_arc(begin(a, b), own, share))


def test_an_arc_keeps_the_norm_and_is_a_line_where_there_is_no_angle() -> None:
    a, b = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    half = slerp(a, b, 0.5)
    assert torch.allclose(half, torch.tensor([1.0, 1.0, 0.0]) * 3 / math.sqrt(2))
    almost = torch.tensor([3.0, 0.05, 0.0])
    assert torch.equal(slerp(a, almost, 0.5), lerp(a, almost, 0.5))
    assert torch.equal(slerp(a, -a, 0.25), a / 2)
    zero = torch.zeros(3)
    assert torch.allclose(slerp(zero, b, 0.5), b * math.sin(math.pi / 4))  # as mergekit
    assert slerp(torch.zeros(0), torch.zeros(0), 0.5).shape == (0,)


def test_what_did_not_move_keeps_its_bits() -> None:
    start = torch.tensor([0.1, -math.inf, 7e-5, 3.0], dtype=torch.bfloat16)
    end = torch.tensor([0.1, -math.inf, 7e-5, 5.0], dtype=torch.bfloat16)
    for share in (0.0, 0.2, 0.5, 0.7, 1.0):
        found = lerp(start, end, share).bfloat16()
        assert torch.equal(found[:3], start[:3])
    assert torch.equal(lerp(start, end, 0.0), start.float())
    assert torch.equal(lerp(start, end, 1.0), end.float())
    small, large = torch.tensor([1e-9, 1.0]), torch.tensor([1.0, 1e-9])
    assert torch.equal(lerp(small, large, 0.0), small)
    assert torch.equal(lerp(small, large, 1.0), large)


def test_a_sum_of_0_is_positive_and_0_has_no_sign() -> None:
    vectors = [torch.tensor([1.0, 0.0, -2.0, 0.0]), torch.tensor([-1.0, 0.0, 1.0, -3.0])]
    mean = combined(lambda: vectors, consensus=True, normalize=True)
    assert mean.tolist() == [1.0, 0.0, -2.0, -3.0]


def test_the_model_before_is_the_one_that_the_stage_began_with(models: list[nn.Module]) -> None:
    for found in finished(models, "wise", start="base", alpha=0.3):
        check(found, models, lambda base, one, own: on_the_line(base, own, 0.3))


def test_exactly_as_many_are_largest() -> None:
    scores = torch.tensor([[2.0, 5.0, 2.0], [2.0, 1.0, -math.inf]])
    assert largest(scores, 3).tolist() == [[True, True, True], [False, False, False]]
    assert largest(scores, 0).sum() == 0 and largest(scores, 9).all()


@pytest.mark.parametrize("scale", [0.0, 0.4, 1.0])
def test_task_arithmetic_adds_what_the_stages_changed(
    models: list[nn.Module], scale: float
) -> None:
    def expected(base: Any, one: Any, own: Any) -> list[float]:
        changes = zip(minus(one, base), minus(own, one), strict=True)
        return [a + scale * (x + y) for a, (x, y) in zip(base, changes, strict=True)]

    options = {"lambda": scale}
    check(finished(models, "task_arithmetic", **options)[1], models, expected)
    apart = finished(models, "task_arithmetic", start="base", normalize=True, **options)[1]

    def mean(base: Any, one: Any, own: Any) -> list[float]:
        changes = zip(minus(one, base), minus(own, base), strict=True)
        return [a + scale * (x + y) / 2 for a, (x, y) in zip(base, changes, strict=True)]

    check(apart, models, mean)


@pytest.mark.parametrize("since", ["start", "base"])
def test_ties_merges_what_agrees_of_the_largest_changes(
    models: list[nn.Module], since: str
) -> None:
    trained, found = finished(models, "ties", since=since, density=0.3)

    def expected(base: Any, one: Any, own: Any) -> list[float]:
        if since == "base":
            return ties(base, [one, own], 0.3)
        merged = ties([0.0] * len(base), [minus(one, base), minus(own, one)], 0.3)
        return [a + x for a, x in zip(base, merged, strict=True)]

    check(found, models, expected)
    if since == "start":  # for training the stage's own change alone, on what it began with
        check(trained, models, lambda base, one, own: ties(one, [own], 0.3))
    else:
        check(trained, models, expected)


def dropped(vector: list[float], stage: int, name: str, density: float, how: str) -> list[float]:
    """The draw is the package's, what is made of it is not."""
    generator = torch.Generator().manual_seed(derive_seed(3, "dare", stage, name))
    draws = torch.rand(len(vector), generator=generator).tolist()
    left = [x if draw < density else 0.0 for x, draw in zip(vector, draws, strict=True)]
    factor = {
        "l1": math.fsum(map(abs, vector)) / (math.fsum(map(abs, left)) or 1.0),
        "density": 1 / density,
        "none": 1.0,
    }
    return [x * factor[how] for x in left]


@pytest.mark.parametrize("rescale", ["l1", "density", "none"])
@pytest.mark.parametrize("consensus", [False, True])
def test_dare_drops_and_rescales(models: list[nn.Module], rescale: str, consensus: bool) -> None:
    options = {"density": 0.4, "rescale": rescale, "consensus": consensus, "lambda": 0.7}
    _, found = finished(models, "dare", **options)
    for name in NAMES:
        base, one, own = (weights(model)[name].flatten().tolist() for model in models)
        vectors = [
            dropped(change, number, name, 0.4, rescale)
            for number, change in ((1, minus(one, base)), (2, minus(own, one)))
        ]
        kept = agreed(vectors, mean=False)
        total = kept if consensus else [x + y for x, y in zip(*vectors, strict=True)]
        expected = torch.tensor(base, dtype=torch.float64) + 0.7 * torch.tensor(total).double()
        assert float((found[name].flatten() - expected).abs().max()) < 1e-6, name
    share = (found["lm_head.weight"] == weights(models[0])["lm_head.weight"]).double().mean()
    assert (0.5 + 0.5 * 0.6) ** 2 - 0.05 < float(share) < 0.75  # half did not move, 0.6 are dropped


@pytest.mark.parametrize("other", ["previous", "base"])
def test_fapm_prunes_changes_of_small_weights(models: list[nn.Module], other: str) -> None:
    def expected(base: Any, one: Any, own: Any) -> list[float]:
        return pruned_by_size(base if other == "base" else one, own, 0.3)

    for found in finished(models, "fapm", with_=other, density=0.3):
        check(found, models, expected)


def test_fapm_where_its_formula_says_nothing() -> None:
    before = torch.tensor([0.0, 0.0, -math.inf, 2.0, 1.0, 1.0], dtype=torch.float64)
    after = torch.tensor([0.0, 9.0, -math.inf, 2.5, 1.5, 1.0], dtype=torch.float64)
    score = forgetting_aware(before, after).tolist()  # mean of |w| is 0.8
    assert score == pytest.approx([-math.inf, -math.inf, -math.inf, 0.3, 0.1, 0.0])
    assert forgetting_aware(torch.zeros(2), torch.tensor([1.0, -3.0])).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("other", ["previous", "base"])
def test_neurons_that_changed_most_keep_it(models: list[nn.Module], other: str) -> None:
    for found in finished(models, "neuron_merge", with_=other, keep=0.25, others=0.3):
        before = weights(models[0 if other == "base" else 1])
        for name, end in weights(models[2]).items():
            rows = [x.reshape(len(x), -1).tolist() for x in (before[name], end)]
            sizes = [sum(c * c for c in minus(b, a)) for a, b in zip(*rows, strict=True)]
            order = sorted(range(len(sizes)), key=lambda r: -sizes[r])
            kept = set(order[: round(0.25 * len(sizes))])
            expected = [
                b if r in kept else on_the_line(a, b, 0.3)
                for r, (a, b) in enumerate(zip(*rows, strict=True))
            ]
            values = torch.tensor(expected, dtype=torch.float64).view_as(end)
            assert float((found[name] - values).abs().max()) < 1e-12, name


def test_a_neuron_is_an_output_unit_of_any_layout_and_each_expert_has_its_own() -> None:
    moved = torch.zeros(2, 3, 4)
    moved[0, :, 1], moved[0, :, 2], moved[1, :, 3] = 2.0, 1.0, 0.1
    kept = _most_changed(moved, Layout((2,), (1,), stack=1), 0.25)  # [experts, inputs, units]
    assert kept.nonzero()[:, [0, 2]].unique(dim=0).tolist() == [[0, 1], [1, 3]]
    assert kept.sum() == 6
    assert _most_changed(moved[0], Layout((1,), (0,)), 0.5).all(0).tolist() == [
        False,
        True,
        True,
        False,
    ]


NEUTRAL: dict[str, dict[str, Any]] = {
    "wise": {"alpha": 1},
    "slerp": {"t": 1},
    "ties": {"density": 1, "since": "start", "for": "training"},
    "dare": {"density": 1, "rescale": "density"},
    "task_arithmetic": {},
    "ema": {"decay": 0, "for": "training"},
    "branch_merge": {"branches": 1},
    "fapm": {"density": 1},
    "neuron_merge": {"others": 1},
}


def two_stages(method: Callable[[], Method]) -> list[Gradients]:
    """What is scored after two stages that are trained one after the other, in float32."""
    model, found = model64(layers=1).float(), []
    shelf = Shelf([weights(model)])
    for index, items in enumerate((OLD, NEW), 1):
        stage, batcher = make_stage(model, items, TRAIN, index)
        stage.library = shelf
        own = method()
        run_method(own, stage, batcher, epochs=1)
        shelf.saved.append(weights(model))
        with own.scored(stage) as scored:
            found.append(weights(scored))
    return found


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_options_are_plain_training(name: str, plain: list[Gradients]) -> None:
    for found, expected in zip(
        two_stages(lambda: build(name, **NEUTRAL[name])), plain, strict=True
    ):
        assert_close(found, expected, 0.0)


@pytest.fixture(scope="module")
def plain() -> list[Gradients]:
    return two_stages(lambda: build("sft"))


def test_the_first_stage_is_merged_with_the_base_model(models: list[nn.Module]) -> None:
    for found in finished(models[1:], "wise", alpha=0.3):
        check(found, models[1:], lambda base, own: on_the_line(base, own, 0.3))
    for found in finished(models[1:], "fapm", density=0.3):
        check(found, models[1:], lambda base, own: pruned_by_size(base, own, 0.3))
    for since in ("start", "base"):
        for found in finished(models[1:], "ties", since=since, density=0.3):
            check(found, models[1:], lambda base, own: ties(base, [own], 0.3))


def test_missing_weights_are_missed_before_training(models: list[nn.Module]) -> None:
    stage = stage_of(models)
    stage.library = Shelf([])
    with pytest.raises(IndexError):
        build("ties").prepare(stage)


class Counted(dict[str, Tensor]):
    """Weights of which it is known how many are held at once."""

    given: ClassVar[list[weakref.ref[Tensor]]] = []
    most: ClassVar[int] = 0

    def __getitem__(self, name: str) -> Tensor:
        value = super().__getitem__(name).clone()
        Counted.given.append(weakref.ref(value))
        Counted.most = max(Counted.most, self.held())
        return value

    @classmethod
    def held(cls) -> int:
        return sum(one() is not None for one in cls.given)


@pytest.mark.parametrize("name", ["wise", "slerp", "fapm", "neuron_merge", "dare", "ties"])
def test_tensors_of_other_models_are_held_one_at_a_time(models: list[nn.Module], name: str) -> None:
    stage = stage_of([*models[:2]] * 3)  # five stages before this one
    stage.library = Shelf([Counted(weights(model)) for model in [*models[:2]] * 3])
    Counted.most = 0
    Counted.given.clear()
    method = build(name, for_="scoring")
    method.prepare(stage)
    with method.scored(stage):
        pass
    assert 1 <= Counted.most <= 3 and not Counted.held()

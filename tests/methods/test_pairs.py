"""Every two methods together: they are refused before the start, or both have their effect."""

from __future__ import annotations

import functools
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel

from cl_bench.config.schema import ExperimentConfig, TrainConfig
from cl_bench.data.examples import Example
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.adapter_checks import continuity_faults
from cl_bench.methods.registry import METHODS
from cl_bench.methods.spec import StageSpec
from cl_bench.methods.static_checks import stage_faults
from tests.helpers.reference import Gradients, weights
from tests.helpers.sequences import run_sequence
from tests.helpers.tiny import tiny_model

OPTIONS: dict[str, dict[str, Any]] = {
    "recadam": {"gamma": 100, "t0": 1},
    "block_expansion": {"every": 1},
    "ewc": {"lambda": 1e4},
    "l2sp": {"lambda": 10},
    "ogd": {"directions": 2},
    "loki": {"share": 0.3, "steps": 2, "examples": 3},
    "replay": {"ratio": 0.5},
    "der": {"memory": 4},
    "grads": {"share": 0.5},
    "neuron_merge": {"keep": 0.1},
    "piece": {"ratio": 0.3},
    "ties": {"for": "training", "density": 0.5},
    "dare": {"for": "training", "density": 0.5},
    "task_arithmetic": {"for": "training", "lambda": 0.5},
    "ema": {"for": "training", "decay": 0.5},
}
"""With which each method changes what two stages of a few examples end with."""
ORDERING = ("single", "mtl")
"""They decide about all stages, and train as the other does."""
REPRESENTATIVES = ("fggm", "lwf", "lora", "ema", "migu", "replay", "branch_merge", "l2sp", "wise")
"""One for each hook, and the pairs that were once silent."""
ONCE_SILENT = [("layernorm", "migu"), ("osft", "migu"), ("layernorm", "das"), ("grads", "ema")]
TRAIN = TrainConfig(
    lr=1e-2, batch_size=2, micro_batch_size=2, max_prompt_tokens=8, max_answer_tokens=3
)
TASKS = [
    [Example(f"q{i}: ", f"{answer}{i}", i, task, "generate") for i in range(4)]
    for task, answer in (("old", "A"), ("new", "zz"))
]
Pair = tuple[str, ...]


def resolved(names: Pair) -> StageSpec | None:
    """The last stage of a composition; None where it is refused."""
    stage, _ = checked(names)
    return stage


def checked(names: Pair) -> tuple[StageSpec | None, list[str]]:
    """The same with the reasons."""
    parts = [{"name": name, **OPTIONS.get(name, {})} for name in names]
    stages = [{"task": task, "limit": 4} for task in ("mini_fomc", "mini_py150")]
    config = {
        "name": "pair",
        "model": {"path": "some/model"},
        "methods": [{"compose": parts, "label": "pair"}],
        "stages": stages,
        "eval": {"general": {"after": "never"}},
    }
    try:
        experiment = resolve(ExperimentConfig.model_validate(config))
    except UserError as error:
        return None, error.faults
    found: Any = SimpleNamespace(runs=experiment.runs)
    if faults := [*stage_faults(found), *continuity_faults(found)]:
        return None, faults
    return experiment.runs[0].stages[-1], []


@functools.cache
def trained(names: Pair) -> Gradients | None:
    """What two stages end with, an adapter merged; None where the composition is refused."""
    stage = resolved(names)
    if stage is None:
        return None
    model = run_sequence(stage.build_method, tiny_model(layers=1), TASKS, TRAIN, epochs=2)[-1].model
    return weights(model.merge_and_unload() if isinstance(model, PeftModel) else model)


def is_same(a: Gradients | None, b: Gradients | None) -> bool:
    if a is None or b is None:
        return False
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def assert_both_or_neither(pair: Pair) -> None:
    both, plain = trained(pair), trained(("sft",))
    if both is None:
        return
    assert all(bool(value.isfinite().all()) for value in both.values())
    for name in pair:
        (other,) = (each for each in pair if each != name)
        if not is_same(trained((name,)), plain):
            assert not is_same(both, trained((other,))), f"{' + '.join(pair)}: {name} does nothing"


@pytest.mark.parametrize("pair", permutations(REPRESENTATIVES, 2), ids=" + ".join)
def test_two_methods_both_have_their_effect_or_are_refused(pair: Pair) -> None:
    assert_both_or_neither(pair)


@pytest.mark.parametrize("pair", ONCE_SILENT, ids=" + ".join)
def test_pairs_of_which_one_would_do_nothing_are_refused(pair: Pair) -> None:
    for order in permutations(pair):
        assert resolved(order) is None


@pytest.mark.parametrize("pair", [("ema", "wise"), ("kl_base", "osft")], ids=" + ".join)
def test_what_works_in_one_order_is_refused_in_the_other(pair: Pair) -> None:
    """An average would be written over a merge; factors are none of the base model's weights."""
    assert trained(pair) is not None
    assert resolved(pair[::-1]) is None


def test_what_is_refused_in_one_order_only_says_which_is_right() -> None:
    names = [name for name in METHODS if name not in ORDERING]
    refused = {pair: faults for pair in permutations(names, 2) if (faults := checked(pair)[1])}
    for pair, faults in refused.items():
        if pair[::-1] not in refused:
            assert any(" list " in fault for fault in faults), faults


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", permutations((n for n in METHODS if n not in ("sft", *ORDERING)), 2), ids=" + ".join
)
def test_every_two_methods_both_have_their_effect_or_are_refused(pair: Pair) -> None:
    assert_both_or_neither(pair)


def test_every_method_changes_something_here() -> None:
    """Else the tests above would see nothing of it; A-GEM and GEM only where tasks disagree."""
    plain = trained(("sft",))
    still = [
        name
        for name in METHODS
        if name not in ("sft", "agem", "gem", *ORDERING) and is_same(trained((name,)), plain)
    ]
    assert not still

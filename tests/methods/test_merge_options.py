"""Which merges a config may ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cl_bench.errors import RunError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.base import Method
from cl_bench.methods.lora import LoRA
from cl_bench.methods.registry import method_class
from tests.helpers.configs import faults_of, write
from tests.helpers.reference import NEW, TRAIN, make_stage, model64, weights
from tests.helpers.sequences import Shelf


def build(name: str, **options: Any) -> Method:
    cls = method_class(name)
    return cls(cls.options_type.model_validate(options))


def test_adapters_are_not_merged(tmp_path: Path) -> None:
    model = model64(layers=1)
    stage, _ = make_stage(model, NEW, TRAIN)
    stage.library = Shelf([weights(model)])
    LoRA().prepare(stage)
    for name in ("wise", "ties"):
        method = build(name, **{"for": "training"})
        method.prepare(stage)
        with pytest.raises(RunError, match="an adapter, and whole weights are merged"):
            method.finish(stage)
    for name in ("wise", "branch_merge"):
        (run,) = resolve_file(write(tmp_path, methods=[{"compose": ["lora", name]}])).runs
        (fault,) = build(name).refuses(run.stages[0])
        assert fault.startswith("merges whole weights, and lora trains an adapter"), fault
        (run,) = resolve_file(write(tmp_path, methods=[{"compose": ["replay", name]}])).runs
        assert not list(build(name).refuses(run.stages[0]))


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ({"name": "wise", "alpha": 1.5}, "alpha"),
        ({"name": "ties", "density": 0}, "density"),
        ({"name": "dare", "rescale": "l2"}, "rescale"),
        ({"name": "ties", "for": "fun"}, "for"),
        ({"name": "slerp", "with": "last"}, "with"),
        ({"name": "ema", "decay": 1}, "decay"),
        ({"name": "neuron_merge", "keep": -0.1}, "keep"),
        ({"name": "branch_merge", "branches": 3, "merge": "slerp"}, "slerp is between two models"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, method: Any, said: str) -> None:
    (fault,) = faults_of(write(tmp_path, methods=[method]))
    assert said in fault, fault


def test_merges_of_models_that_were_trained_apart(tmp_path: Path) -> None:
    both = {"compose": ["single", "task_arithmetic"]}
    stages = [{"task": "mini_fomc"}, {"task": "mini_cstance"}]
    (run,) = resolve_file(write(tmp_path, methods=[both], stages=stages)).runs
    assert [stage.start for stage in run.stages] == ["base", "base"]
    assert run.keeps == ["weights"] and run.stages[1].scoring == ["task_arithmetic"]

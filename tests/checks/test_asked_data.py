"""What methods ask of the data is looked for in the config before the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.checks import asked_data
from cl_bench.checks.asked_data import count_faults, task_faults
from cl_bench.methods.branch_merge import BranchMerge
from cl_bench.methods.loki import LoKI, LoKIOptions
from cl_bench.methods.sft import SFT


def part(method: Any, **options: Any) -> SimpleNamespace:
    return SimpleNamespace(method=method, options=method.options_type.model_validate(options))


@pytest.mark.parametrize("task", [None, "trace_fomc", "fomc", "mmlu", "mmlu_anatomy", "mmul"])
def test_a_task_must_be_one_of_the_config(
    task: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_data, "training_faults", lambda leaf, shots: [])
    parts = [SimpleNamespace(method=LoKI, options=LoKIOptions(task=task)), part(SFT)]
    run = SimpleNamespace(label="loki", stages=[SimpleNamespace(parts=parts)] * 2)
    suite = SimpleNamespace(
        stage_tasks={"trace_fomc": 1},
        general={"mmlu": {"mmlu_anatomy": 2}},
        leaves={"mmlu_anatomy": 2},
    )
    config = SimpleNamespace(eval=SimpleNamespace(general=SimpleNamespace(tasks=["mmlu"])))
    found: Any = SimpleNamespace(runs=[run], suite=suite, config=config)
    faults = list(task_faults(found))
    said = "methods: loki: task: mmul: no task of this config (did you mean 'mmlu'?)"
    assert faults == ([said] if task == "mmul" else [])


@pytest.mark.parametrize(("branches", "rounds"), [(2, 3), (7, 1), (1, 1)])
def test_a_stage_has_examples_for_every_slice(branches: int, rounds: int) -> None:
    """A joint stage has those of all its tasks."""
    parts = [part(SFT), part(BranchMerge, branches=branches, rounds=rounds)]
    stage = SimpleNamespace(index=2, parts=parts, sets=(("a", None), ("b", 2)))
    run = SimpleNamespace(label="mine", seed=5, stages=[stage])
    examples = {("a", None, 5): [0] * 4, ("b", 2, 5): [0] * 2}
    found: Any = SimpleNamespace(runs=[run, run], examples=examples)
    faults = list(count_faults(found))
    if branches * rounds <= 6:
        assert not faults
    else:
        (fault,) = faults
        assert fault.startswith("methods: mine: stage 2: branch_merge needs 7 examples at least")
        assert "the stage has 6: give it more (limit:)" in fault

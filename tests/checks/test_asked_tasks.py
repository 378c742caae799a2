"""Tasks that options of methods name are looked for in the config before the start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.checks.asked_tasks import task_faults
from cl_bench.methods.loki import LoKI, LoKIOptions
from cl_bench.methods.sft import SFT


@pytest.mark.parametrize("task", [None, "trace_fomc", "fomc", "mmlu", "mmlu_anatomy", "mmul"])
def test_a_task_must_be_one_of_the_config(task: str | None) -> None:
    parts = [SimpleNamespace(method=LoKI, options=LoKIOptions(task=task))]
    parts.append(SimpleNamespace(method=SFT, options=SFT().options))
    run = SimpleNamespace(label="loki", stages=[SimpleNamespace(parts=parts)] * 2)
    suite = SimpleNamespace(stage_tasks={"trace_fomc": 1}, general={}, leaves={"mmlu_anatomy": 1})
    config = SimpleNamespace(eval=SimpleNamespace(general=SimpleNamespace(tasks=["mmlu"])))
    found: Any = SimpleNamespace(runs=[run], suite=suite, config=config)
    faults = list(task_faults(found))
    said = "methods: loki: task: mmul: no task of this config (did you mean 'mmlu'?)"
    assert set(faults) == ({said} if task == "mmul" else set())

"""Stages that could not be trained are refused from the classes and files of methods alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cl_bench.config.schema import ExperimentConfig
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.static_checks import file_faults

METHOD = """
import peft
from cl_bench.methods.base import Method
from peft import PeftType, PromptTuningConfig as Soft, get_peft_model

class Mine(Method):
    name = "mine"

    def prepare(self, stage):
        config = {config}
        stage.model = get_peft_model(stage.model, config)
"""


def experiment(*methods: Any) -> ExperimentConfig:
    return ExperimentConfig.model_validate(
        {"name": "x", "model": {"path": "m"}, "stages": [{"task": "trace_fomc"}]}
        | {"methods": list(methods)}
    )


def faults(folder: Path, config: str) -> list[str]:
    file = folder / "mine.py"
    file.write_text(METHOD.format(config=config))
    found: Any = SimpleNamespace(runs=resolve(experiment("sft", {"file": str(file)})).runs)
    return list(file_faults(found))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("Soft(task_type='CAUSAL_LM')", "PromptTuningConfig (PEFT's prompt learning)"),
        ("peft.PrefixTuningConfig()", "PrefixTuningConfig (PEFT's prompt learning)"),
        ("peft.get_peft_config(dict(peft_type='P_TUNING'))", "P_TUNING (PEFT's prompt learning)"),
        ("peft.get_peft_config({'peft_type': 'CPT'})", "CPT (PEFT's prompt learning)"),
        ("peft.PeftConfig(peft_type=PeftType.CPT)", "CPT (PEFT's prompt learning)"),
        ("peft.AdaptionPromptConfig()", "cannot be merged into the weights, as later stages"),
    ],
)
def test_adapters_that_cannot_be_scored_are_refused_by_the_file(
    tmp_path: Path, config: str, said: str
) -> None:
    (fault,) = faults(tmp_path, config)
    assert said in fault and fault.startswith(f"methods: mine: {tmp_path / 'mine.py'}, line 10: ")


@pytest.mark.parametrize("config", ["peft.LoraConfig()", "peft.IA3Config(target_modules=['CPT'])"])
def test_other_adapters_and_unused_imports_are_not(tmp_path: Path, config: str) -> None:
    assert faults(tmp_path, config) == []


def test_two_that_choose_what_is_trained_are_refused_with_the_config() -> None:
    with pytest.raises(UserError, match="fggm and lora both decide which parameters are trained"):
        resolve(experiment({"compose": ["fggm", "lora"]}))
    assert resolve(experiment({"compose": ["lora", "ewc", "replay"]})).runs

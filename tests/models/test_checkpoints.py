"""What a checkpoint's files hold: the same bytes for the same model, in every process."""

from __future__ import annotations

import json
from pathlib import Path

from peft import LoraConfig, get_peft_model

from cl_bench.models.checkpoints import save_checkpoint
from tests.helpers.tiny import byte_tokenizer, tiny_model


def test_an_adapters_targets_are_written_in_order(tmp_path: Path) -> None:
    names = ["v_proj", "q_proj", "up_proj", "down_proj", "o_proj", "k_proj", "gate_proj"]
    tuned = get_peft_model(
        tiny_model(), LoraConfig(r=2, target_modules=names, task_type="CAUSAL_LM")
    )
    # As PEFT keeps it, in an order that depends on the process (PYTHONHASHSEED).
    assert isinstance(tuned.peft_config["default"].target_modules, set)
    save_checkpoint(tuned, byte_tokenizer(), tmp_path / "checkpoint", "smollm2-135m")
    written = json.loads((tmp_path / "checkpoint" / "adapter_config.json").read_text())
    assert written["target_modules"] == sorted(names)

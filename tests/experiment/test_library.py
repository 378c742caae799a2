"""Weights of earlier stages: an adapter's are those of the merged model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cl_bench.errors import RunError
from cl_bench.experiment.library import RunLibrary
from cl_bench.methods.lora import LoRA, LoRAOptions
from cl_bench.models.checkpoints import save_checkpoint
from cl_bench.store.folders import RunFolder
from tests.helpers.reference import examples, make_stage
from tests.helpers.tiny import byte_tokenizer, tiny_model


def test_weights_after_a_stage_are_merged_and_in_the_dtype_of_the_run(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    stage, _ = make_stage(tiny_model(), examples("t", 2), SimpleNamespace())  # type: ignore[arg-type]
    LoRA(LoRAOptions(r=2)).prepare(stage)
    model: Any = stage.model
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    place = RunFolder(tmp_path / "results" / "lora" / "seed-1")
    base = str(tmp_path / "model")
    save_checkpoint(model, byte_tokenizer(), place.path / "stage-1-t" / "checkpoint", base)
    specs = [SimpleNamespace(index=1, folder="stage-1-t"), SimpleNamespace(index=2, folder="no")]
    config = SimpleNamespace(keep="all", model=SimpleNamespace(dtype="float64", source=base))
    work: Any = SimpleNamespace(config=config)
    run: Any = SimpleNamespace(stages=specs, seed=1)
    names = [name for name, _ in tiny_model().named_parameters()]

    merged = dict(model.merge_and_unload().named_parameters())
    found = RunLibrary(work, run, place, 1, names).weights(1)
    plain = RunLibrary(work, run, place, 1, names).weights(0)
    assert set(found) == set(plain) == merged.keys() and len(found) == len(plain)
    changed = []
    for name, value in merged.items():
        assert found[name].dtype == plain[name].dtype == torch.float64
        torch.testing.assert_close(found[name], value.double(), rtol=0, atol=1e-6)
        changed += [name] * (not torch.equal(found[name], plain[name]))
    assert changed and all("q_proj" in name or "v_proj" in name for name in changed)
    with pytest.raises(RunError, match=r"there are 0 \(the base model\) and stages 1"):
        RunLibrary(work, run, place, 1, names).weights(2)

"""A score comes from all of its inputs and from nothing else, or the run says what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.e2e.conftest import Bench


def damage_deleted(file: Path) -> None:
    file.unlink()


def damage_changed(file: Path) -> None:
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith(".log_p"))
    tensors[name][0, 0] += 1.0
    save_file(tensors, file)


def damage_cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-40])


@pytest.mark.parametrize("damage", [damage_deleted, damage_changed, damage_cut])
def test_a_divergence_from_a_damaged_reference_is_refused(bench: Bench, damage) -> None:
    bench.write_config(methods=["sft"])
    bench.must("run", "tiny.yaml")
    file = next((bench.results / "base" / "kl").glob("*.safetensors"))
    damage(file)
    bench.write_config(methods=["sft", {"name": "fggm", "alpha": 0.5}])
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and f"{file.name}: " in err and "the base model again" in err, err
    scored = list((bench.results / "fggm").rglob("scores.json"))
    assert not scored, "nothing is scored against a part of the reference"


def test_a_model_that_gives_no_numbers_is_named_with_its_document(bench: Bench) -> None:
    file = bench.root / "model" / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if name.endswith("norm.weight"))
    tensors[name][0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and "JSON" not in err, err
    assert "general_piqa: document 0: the model gives a log-likelihood of nan" in err


def test_sampled_answers_do_not_depend_on_what_was_scored_before(bench: Bench) -> None:
    folder = bench.root / "own"
    folder.mkdir()
    rows = [{"prompt": f"Q{i}:", "answer": "A"} for i in range(4)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("first", "second"):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"train": "rows.jsonl", "test": "rows.jsonl"}},
            "training_split": "train",
            "test_split": "test",
            "output_type": "generate_until",
            "doc_to_text": "prompt",
            "doc_to_target": "answer",
            "target_delimiter": "",
            "metric_list": [{"metric": "exact_match"}],
            "generation_kwargs": {"until": [], "do_sample": True, "temperature": 1.0},
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    evaluation = {"general": {"after": "never"}, "probes": False}

    def answers(experiment: str, *stages: str) -> list[str]:
        settings = {"task_paths": ["own"], "methods": ["ori"], "eval": evaluation}
        bench.write_config(stages=[{"task": name} for name in stages], **settings)
        bench.must("run", "tiny.yaml", "-o", f"name={experiment}")
        file = bench.root / "results" / experiment / "base" / "predictions" / "second.jsonl"
        return [json.loads(line)["prediction"] for line in file.read_text().splitlines()]

    both, alone = answers("both", "first", "second"), answers("alone", "second")
    assert both == alone and len(set(both)) > 1, "they are sampled, and the same"

"""Exported folders: loaded by transformers and PEFT alone, with a card that says what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl_bench.experiment.export import _hub_name
from tests.e2e.conftest import Bench
from tests.helpers.read import scores_of

SMALL = {"eval": {"trace": {"limit": 2}, "general": {"tasks": ["piqa"], "limit": 2}}}


def front_of(folder: Path) -> dict[str, object]:
    found = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert isinstance(found, dict)
    return found


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.tensor([[5, 6, 7, 8]])).logits
    return found


def test_a_whole_model_and_its_card(bench: Bench) -> None:
    bench.write_config(**SMALL, methods=[{"name": "fggm", "alpha": 0.5}])
    bench.must("run", "tiny.yaml")
    bench.must("export", "tiny/fggm", "out", "--stage", "1")
    stage = bench.results / "fggm/seed-1/stage-1-trace_fomc"
    model = AutoModelForCausalLM.from_pretrained("out")
    stored = AutoModelForCausalLM.from_pretrained(stage / "checkpoint")
    assert torch.equal(logits_of(model), logits_of(stored))
    assert AutoTokenizer.from_pretrained("out")("a")["input_ids"]
    assert front_of(Path("out")) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["continual-learning", "cl-bench"],
    }
    card = (bench.root / "out/README.md").read_text()
    scores, before = scores_of(stage), scores_of(bench.results / "base")
    for task in ("trace_fomc", "piqa"):
        part = "trace" if task.startswith("trace") else "general"
        entry, old = scores[part][task], before[part][task]
        row = [task, entry["metric"], f"{100 * old['score']:.1f}", f"{100 * entry['score']:.1f}"]
        assert f"| {' | '.join(row)} | 2 |" in card
    assert "| 1 | trace_fomc | 1 | 8 | fggm |" in card and "alpha 0.5" in card
    assert "trace_numglue_ds" not in card, "of a later stage"
    assert str(bench.root) not in card
    code, _, err = bench.run("export", "tiny/fggm", "other", "--merge")
    assert code == 2 and "nothing to merge" in err and not Path("other").exists()


def test_an_adapter_is_exported_as_such_and_merged(bench: Bench) -> None:
    bench.write_config(**SMALL, methods=["lora"])
    bench.must("run", "tiny.yaml")
    said = bench.must("export", "tiny/lora", "adapter")
    assert f"an adapter of {bench.root / 'model'}" in said
    bench.must("export", "tiny/lora", "merged", "--merge")
    adapted = AutoPeftModelForCausalLM.from_pretrained("adapter")
    merged = AutoModelForCausalLM.from_pretrained("merged")
    assert not list(Path("merged").glob("adapter*"))
    assert torch.allclose(logits_of(adapted), logits_of(merged), atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained("model")
    assert not torch.allclose(logits_of(merged), logits_of(base), atol=1e-5)
    assert front_of(Path("adapter"))["library_name"] == "peft"
    assert front_of(Path("merged"))["library_name"] == "transformers"


def test_an_adapter_of_a_hub_model_names_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.write_config(**SMALL, methods=["lora"])
    bench.must("run", "tiny.yaml")
    record = bench.results / "lora/seed-1/run.json"
    data = json.loads(record.read_text())
    data["config"]["model"] |= {"path": "owner/name", "revision": "v1"}
    monkeypatch.setattr("cl_bench.experiment.export.read_run", lambda _: data)
    monkeypatch.setattr("cl_bench.experiment.model_card.read_run", lambda _: data)
    monkeypatch.setattr("cl_bench.experiment.export.adapter_base", lambda _: "owner/name@v1")
    monkeypatch.setattr("cl_bench.experiment.export.resolve_model_path", lambda path: path)
    assert "an adapter of owner/name" in bench.must("export", "tiny/lora", "out")
    config = json.loads(Path("out/adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/name", "v1")
    front = front_of(Path("out"))
    assert front["base_model"] == "owner/name" and front["base_model_relation"] == "adapter"


def test_which_models_have_a_hub_name() -> None:
    assert _hub_name({"path": "owner/name", "revision": None}) == "owner/name"
    assert _hub_name({"path": "../../model", "revision": None}) is None
    assert _hub_name({"path": "smollm2-135m", "revision": None}) is None


def test_functions_beside_a_model_cannot_be_merged(bench: Bench) -> None:
    bench.write_config(**SMALL, methods=["bottleneck"])
    bench.must("run", "tiny.yaml")
    code, _, err = bench.run("export", "tiny/bottleneck", "out", "--merge")
    assert code == 2 and "cannot be merged" in err and not Path("out").exists()
    bench.must("export", "tiny/bottleneck", "out")
    assert "cl-bench alone attaches" in (bench.root / "out/README.md").read_text()

"""Where shapes come from: this machine, the shipped table, the hub, or one line why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cl_bench.config.schema import ModelConfig
from cl_bench.costs.model_shapes import known_models, model_shapes
from cl_bench.costs.shapes import decoder_shapes
from tests.helpers.tiny import tiny_model

PUBLISHED = {
    "HuggingFaceTB/SmolLM2-135M": 134_515_008,
    "HuggingFaceTB/SmolLM2-360M": 361_821_120,
    "HuggingFaceTB/SmolLM2-1.7B": 1_711_376_384,
    "Qwen/Qwen2-0.5B": 494_032_768,
    "Qwen/Qwen2-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
}
"""Parameters of the published weights, a tied head once."""


class Hub:
    """Stands in for Hugging Face's client: answers with `values`, or fails."""

    def __init__(self, values: Any = None) -> None:
        self.values, self.asked = values, []

    def get(self, url: str, **options: Any) -> Hub:
        self.asked.append(url)
        assert options["timeout"] <= 10
        if self.values is None:
            raise ConnectionError("no network here\nmore")
        return self

    def raise_for_status(self) -> None:
        pass

    def json(self) -> Any:
        return self.values


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """No network, an empty hub cache, an empty cache of our own."""
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.get_session", lambda: hub)
    monkeypatch.setattr("cl_bench.costs.model_shapes._ANSWERS", {})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("CL_BENCH_CACHE", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    return hub


def test_the_table_has_the_published_sizes() -> None:
    sizes = {}
    for name, config in known_models().items():
        shapes = decoder_shapes(config)
        assert shapes is not None
        sizes[name] = shapes.numel
    assert PUBLISHED.items() <= sizes.items()
    assert set(sizes.values()) == set(PUBLISHED.values())


def test_known_models_need_no_hub(hub: Hub) -> None:
    found = model_shapes(ModelConfig(path="Qwen/Qwen2-7B", dtype="float32"))
    assert found.shapes is not None and found.shapes.dtype_bytes == 4
    assert found.source == "cl-bench's table of known models"
    quickstart = model_shapes(ModelConfig(path="smollm2-135m"))
    assert quickstart.shapes is not None and quickstart.shapes.numel == 134_515_008
    assert hub.asked == []


def test_a_local_folder(hub: Hub, tmp_path: Path) -> None:
    tiny_model().config.save_pretrained(tmp_path / "model")
    found = model_shapes(ModelConfig(path="./model"))
    assert found.source == "config.json on this machine"
    assert found.shapes is not None
    assert found.shapes.numel == sum(p.numel() for p in tiny_model().parameters())


def test_the_hub_cache_comes_before_the_table(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--Qwen--Qwen2-7B"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    tiny_model().config.save_pretrained(folder / "snapshots" / "abc")
    found = model_shapes(ModelConfig(path="Qwen/Qwen2-7B"))
    assert found.source == "config.json on this machine"
    assert found.shapes is not None and found.shapes.numel < 1e6


def test_other_models_are_asked_of_the_hub_once(hub: Hub) -> None:
    hub.values = tiny_model().config.to_dict()
    found = model_shapes(ModelConfig(path="some/model", revision="v1"))
    assert found.source == "config.json on the hub" and found.shapes is not None
    assert len(hub.asked) == 1 and hub.asked[0].endswith("some/model/resolve/v1/config.json")


def test_a_pinned_revision_is_not_looked_up_in_the_table(hub: Hub) -> None:
    found = model_shapes(ModelConfig(path="Qwen/Qwen2-7B", revision="v1"))
    assert found.shapes is None and len(hub.asked) == 1


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("some/model", "the hub does not give its config.json (no network here)"),
        ("./nowhere", "there is no folder './nowhere'"),
        ("./broken", "cannot be read: JSONDecodeError"),
        ("./strange", "model_type 'no-such-kind' is unknown to transformers"),
        ("./cut", "cannot be read: KeyError: 'hidden_size'"),
    ],
)
def test_what_is_not_known_says_why_in_one_line(
    hub: Hub, tmp_path: Path, path: str, said: str
) -> None:
    files = {
        "broken": "{",
        "strange": json.dumps({"model_type": "no-such-kind"}),
        "cut": json.dumps({"model_type": "llama", "num_attention_heads": 4}),
    }
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    found = model_shapes(ModelConfig(path=path))
    assert found.shapes is None
    assert said in found.source and "\n" not in found.source

"""From `model.path` to a model: paths, revisions, dtypes, damaged folders."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from cl_bench.config.schema import ModelConfig
from cl_bench.errors import UserError
from cl_bench.models.checkpoints import load_checkpoint, save_checkpoint
from cl_bench.models.load import (
    load_model,
    model_path_fault,
    resolve_model_path,
    split_revision,
)
from tests.helpers.tiny import byte_tokenizer, tiny_model


def test_model_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    (tmp_path / "models" / "qwen" / "config.json").write_text("{}")
    assert resolve_model_path("models/qwen") == Path("models/qwen")
    assert resolve_model_path(str(tmp_path / "models" / "qwen")) == tmp_path / "models" / "qwen"
    assert resolve_model_path("Qwen/Qwen2-1.5B") == "Qwen/Qwen2-1.5B"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("smolm2-135m", "did you mean 'smollm2-135m'"),
        ("gpt2", "owner/name"),
        ("./models/qwem", "did you mean 'qwen'"),
        ("/no/such/folder", "no folder '/no/such/folder'"),
        ("~/no-such-folder", "no folder '~/no-such-folder'"),
        ("a/b/c", "no folder 'a/b/c'"),
        ("", "model.path: empty"),
        ("models", "no config.json"),
        ("model.gguf", "is a file"),
    ],
)
def test_a_model_path_that_is_none(tmp_path, monkeypatch, path, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(UserError) as caught:
        resolve_model_path(path)
    assert caught.value.faults[0].startswith("model.path: ")
    assert expected in str(caught.value)


@pytest.mark.parametrize("path", ["models/qwen", "smollm2-135m"])
def test_only_hub_models_have_revisions(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    fault = model_path_fault(ModelConfig(path=path, revision="v1").source)
    assert fault is not None and fault.startswith("model.revision: 'v1'")


def test_the_revision_is_loaded(monkeypatch, folder):
    """Model and tokenizer of `model.revision`, not of the main branch."""
    # What code imports from: transformers replaces itself there once it is whole.
    found = sys.modules["transformers"]
    asked = []
    for name in ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"):
        auto = getattr(found, name)

        def local(path, auto=auto, revision=None, **options):
            asked.append((path, revision))
            return auto.from_pretrained(folder, **options)

        monkeypatch.setattr(found, name, SimpleNamespace(from_pretrained=local))
    read = found.PreTrainedConfig.get_config_dict

    def values(path, revision=None):
        asked.append((path, revision))
        return read(folder)

    monkeypatch.setattr(found, "PreTrainedConfig", SimpleNamespace(get_config_dict=values))
    source = ModelConfig(path="owner/name", revision="refs/pr/1").source
    assert model_path_fault(source) is None
    load_model(resolve_model_path(source), "float32")
    assert len(asked) >= 2 and set(asked) == {("owner/name", "refs/pr/1")}
    asked.clear()
    load_model(resolve_model_path("owner/name"), "float32")
    assert len(asked) >= 2 and set(asked) == {("owner/name", None)}


def test_an_adapter_is_loaded_on_the_revision_it_was_trained_on(monkeypatch, folder, tmp_path):
    """Also from another folder: a hub id is no path that could be relative."""
    tuned = get_peft_model(
        tiny_model(), LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    source = ModelConfig(path="owner/name", revision="refs/pr/1").source
    save_checkpoint(tuned, byte_tokenizer(), tmp_path / "a" / "checkpoint", source)
    (tmp_path / "a").rename(tmp_path / "b")
    asked = []
    monkeypatch.setattr(
        "cl_bench.models.load.load_model",
        lambda path, dtype, device: (
            asked.append(split_revision(str(path))) or (tiny_model(), byte_tokenizer())
        ),
    )
    load_checkpoint(tmp_path / "b" / "checkpoint", "float32", torch.device("cpu"), adapters=True)
    assert asked == [("owner/name", "refs/pr/1")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model")
    model = tiny_model()
    model.generation_config.do_sample = True
    model.generation_config.temperature = 0.6
    model.generation_config.top_p = 0.9
    model.generation_config.repetition_penalty = 1.1
    model.save_pretrained(target)
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(target)
    return target


def test_load_model_in_the_asked_dtype(folder):
    model, tokenizer = load_model(folder, "float64", "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    expected = dict(tiny_model(dtype=torch.float64).named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected[name])
    assert tokenizer.pad_token == tokenizer.eos_token == "</s>"


def test_shipped_sampling_settings_are_cleared(folder, caplog, recwarn):
    model, tokenizer = load_model(folder, "float32")
    settings = model.generation_config
    assert (settings.do_sample, settings.temperature, settings.top_p) == (False, None, None)
    assert settings.repetition_penalty == 1.1
    inputs = tokenizer("ab", return_tensors="pt")
    first = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(first, model.generate(**inputs, max_new_tokens=4))
    assert "temperature" not in caplog.text
    assert not [w for w in recwarn if "temperature" in str(w.message)]


@pytest.mark.parametrize(
    ("dtype", "device", "expected"),
    [
        ("bfloat", "cpu", "did you mean 'bfloat16'"),
        ("float32", "gpu", "device: 'gpu' cannot be used"),
        ("float32", "cuda:99", "device: 'cuda:99' cannot be used"),
    ],
)
def test_wrong_dtype_or_device(folder, dtype, device, expected):
    with pytest.raises(UserError, match=expected):
        load_model(folder, dtype, device)


def test_a_hub_model_that_cannot_be_reached():
    with pytest.raises(UserError, match="cannot load 'nobody/nothing'") as caught:
        load_model("nobody/nothing", "float32")
    assert "hub" in str(caught.value)


@pytest.mark.parametrize("damage", ["no weights", "cut weights", "unknown type", "no tokenizer"])
def test_a_damaged_folder(folder, tmp_path, damage):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = tmp_path / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    if damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:1000])
    if damage == "unknown type":
        config = json.loads((tmp_path / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "nonesuch"}))
    if damage == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"model\.path"):
        load_model(tmp_path, "float32")


def test_a_tokenizer_without_eos_is_refused(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="no EOS token"):
        load_model(tmp_path, "float32")


def test_weights_that_would_run_code_are_not_read(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()

    class Runs:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({**model.state_dict(), "more": Runs()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="hold more than tensors"):
        load_model(tmp_path, "float32", "cpu")
    assert not (tmp_path / "ran").exists()

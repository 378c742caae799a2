"""What does not fit the model is refused by plan and run alike, before anything is scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config, Phi3ForCausalLM

from tests.e2e.conftest import Bench, write_task
from tests.helpers.tiny import byte_tokenizer


def refused(bench: Bench, *words: str, options: tuple[str, ...] = ()) -> str:
    """The message of `run`, the same as that of `plan`; nothing was written."""
    found = []
    for command in ("plan", "run"):
        code, _, said = bench.run(command, str(bench.config), *options)
        assert code == 2, said
        found.append([line for line in said.splitlines() if "error: " in line])
    assert found[0] == found[1]
    said = "\n".join(found[0])
    assert all(word in said for word in words), said
    assert not (bench.results / "base").exists()
    return said


def change_config(bench: Bench, **values: Any) -> None:
    file = bench.root / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def gpt2(folder: Path, positions: int) -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=259, n_positions=positions, n_embd=32, n_layer=1, n_head=2, eos_token_id=2
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


def test_kinds_and_weights(bench: Bench) -> None:
    change_config(bench, quantization_config={"quant_method": "awq", "bits": 4})
    assert refused(bench, "quantization_config", "awq", "dequantise").count("\n") == 0
    change_config(bench, quantization_config=None, is_encoder_decoder=True)
    refused(bench, "encoder-decoder")
    change_config(bench, is_encoder_decoder=False)
    refused(bench, "float16", "loss scaling", options=("-o", "model.dtype=float16"))
    file = bench.root / "model" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(bench, "lack weights", "model.layers.0.mlp.up_proj.weight")


def test_tokens_that_the_model_lacks(bench: Bench) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|turn|>"], special_tokens=True)
    tokenizer.save_pretrained(bench.root / "model")
    train = bench.root / "data" / "trace" / "NumGLUE-ds" / "train.json"
    rows = json.loads(train.read_text())
    rows[3]["prompt"] = "1 <|turn|> 2"
    train.write_text(json.dumps(rows))
    refused(bench, "trace_numglue_ds: training examples: 1 of 12 hold '<|turn|>', token id 259")


def test_sequences_beyond_the_window(bench: Bench) -> None:
    gpt2(bench.root / "model", 48)
    options = ("-o", "train.max_prompt_tokens=1024")
    rows = [(f"Text {i}\nStance:", "A") for i in range(12)]
    write_task(bench.root / "data", "FOMC", [*rows, ("word " * 20, "B")])
    said = refused(
        bench, "train.max_prompt_tokens", "window of 48", "set it to 43", options=options
    )
    assert "training examples" in said and "scored documents" in said
    refused(
        bench,
        "train.max_answer_tokens: 512 leaves no room",
        options=("-o", "train.max_answer_tokens=512", *options),
    )


def test_general_beyond_the_window_is_cut_and_said(bench: Bench) -> None:
    """Also by the probes, whose text is longer than a short window."""
    gpt2(bench.root / "model", 48)
    goals = [{"goal": "g" * 100, "sol1": "yes", "sol2": "no", "label": i % 2} for i in range(4)]
    file = bench.root / "data" / "general" / "piqa" / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in goals))
    bench.write_config(methods=["ori"])
    bench.must("run", str(bench.config), "-o", "train.max_prompt_tokens=40")
    scores = json.loads((bench.results / "base" / "scores.json").read_text())
    assert scores["general"]["piqa"]["requests"]["truncated"] == 8


def test_micro_batches_do_not_change_lengths_that_matter(bench: Bench) -> None:
    """Long rotary factors beyond 24 tokens: short examples never stand beside long ones."""
    torch.manual_seed(0)
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = Phi3Config(
        vocab_size=259,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=24,
        rope_parameters={**rope, "original_max_position_embeddings": 24},
        **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    )
    Phi3ForCausalLM(config).save_pretrained(bench.root / "model")
    rows = [("go " * (1 + 3 * i) + "Stance:", "ABC"[i % 3]) for i in range(6)]
    write_task(bench.root / "data", "FOMC", rows)
    general = {"after": "never"}
    bench.write_config(
        methods=["sft"],
        stages=[{"task": "FOMC", "epochs": 1}],
        eval={"trace": {"limit": 2}, "general": general, "probes": False},
    )
    lines = []
    for size in ("6", "1"):
        options = ("-o", f"name=m{size}", "-o", f"train.micro_batch_size={size}")
        code, _, said = bench.run("run", str(bench.config), *options, "-o", "train.batch_size=6")
        assert code == 0, said
        assert "prefixes are not shared (rotary frequencies (longrope)" in said
        log = bench.root / f"results/m{size}/sft/seed-1/stage-1-trace_fomc/train.jsonl"
        lines.append(json.loads(log.read_text().splitlines()[0]))
    assert abs(lines[0]["loss"] - lines[1]["loss"]) < 1e-5
    assert abs(lines[0]["grad_norm"] - lines[1]["grad_norm"]) < 1e-4

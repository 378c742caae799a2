"""Small random models and a byte-level tokenizer that every test builds in memory."""

from __future__ import annotations

from typing import Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
BYTE_VOCAB_SIZE = 259
"""256 bytes and the three special tokens: the `vocab_size` of `byte_tokenizer`."""


def byte_tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token per UTF-8 byte; with `bos`, encoding puts `<s>` in front (as Llama's does)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {PAD: 0, BOS: 1, EOS: 2} | {char: i + 3 for i, char in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if bos:
        backend.post_processor = TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=PAD, bos_token=BOS, eos_token=EOS
    )


def appending(template: str) -> PreTrainedTokenizerFast:
    """A byte tokenizer with this post-processor, e.g. `<s> $A </s>`."""
    tokenizer = byte_tokenizer()
    special = [(PAD, 0), (BOS, 1), (EOS, 2)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=template, special_tokens=special
    )
    return tokenizer


def tiny_model(
    vocab_size: int = BYTE_VOCAB_SIZE,
    kind: Literal["llama", "qwen2"] = "llama",
    tie: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    layers: int = 2,
) -> PreTrainedModel:
    """A random causal LM of few layers (hidden 32, 4 heads, 2 key/value heads) in eval mode.

    The global random state is left as it was found.
    """
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tie,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = (
            LlamaForCausalLM(LlamaConfig(**shape))
            if kind == "llama"
            else Qwen2ForCausalLM(Qwen2Config(**shape))
        )
    return model.to(dtype).eval()

"""Tiny random models of many architectures, with the byte tokenizer's vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

VOCAB = 259
_IDS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
_EXPERTS = {"num_experts_per_tok": 2}

CONFIGS: dict[str, Callable[[], Any]] = {
    "llama": lambda: hf.LlamaConfig(**_IDS, **_LLAMA),
    "gpt2": lambda: hf.GPT2Config(**_IDS, n_positions=512, n_embd=16, n_layer=2, n_head=4),
    "gpt_neox": lambda: hf.GPTNeoXConfig(
        **_IDS, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    ),
    "mixtral": lambda: hf.MixtralConfig(**_IDS, **_LLAMA, **_EXPERTS, num_local_experts=3),
    "olmoe": lambda: hf.OlmoeConfig(**_IDS, **_LLAMA, **_EXPERTS, num_experts=3),
    "qwen3_moe": lambda: hf.Qwen3MoeConfig(
        **_IDS, **_LLAMA, **_EXPERTS, head_dim=4, num_experts=3, moe_intermediate_size=12
    ),
    "gpt_oss": lambda: hf.GptOssConfig(
        **_IDS, **_LLAMA, **_EXPERTS, head_dim=4, num_local_experts=3, sliding_window=16
    ),
    "mamba": lambda: hf.MambaConfig(**_IDS, hidden_size=16, state_size=4, num_hidden_layers=2),
    "phi3": lambda: hf.Phi3Config(**_IDS, **_LLAMA),
    "bloom": lambda: hf.BloomConfig(**_IDS, hidden_size=16, n_layer=2, n_head=4),
    "falcon": lambda: hf.FalconConfig(
        **_IDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, alibi=False
    ),
    "jamba": lambda: hf.JambaConfig(
        **_IDS,
        **_LLAMA,
        num_experts=2,
        num_experts_per_tok=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
    ),
    "llama4": lambda: hf.Llama4TextConfig(
        **_IDS,
        **_LLAMA,
        num_experts_per_tok=1,
        intermediate_size_mlp=24,
        num_local_experts=3,
        head_dim=4,
        interleave_moe_layer_step=1,
        attention_chunk_size=64,
    ),
    "jetmoe": lambda: hf.JetMoeConfig(
        **_IDS,
        **_EXPERTS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_key_value_heads=2,
        kv_channels=4,
        num_local_experts=3,
    ),
    "dbrx": lambda: hf.DbrxConfig(
        **_IDS,
        d_model=16,
        n_heads=4,
        n_layers=2,
        max_seq_len=512,
        attn_config={"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        ffn_config={
            "ffn_hidden_size": 24,
            "hidden_size": 16,
            "moe_num_experts": 3,
            "moe_top_k": 2,
        },
    ),
}


def tiny(name: str, dtype: torch.dtype = torch.float64, scale: float = 3.0, **changes: Any) -> Any:
    """A model in eval mode whose matrices are `scale` times as large as usual.

    The global random state is left as it was found. `changes`: other values of its config.
    """
    config = CONFIGS[name]()
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = hf.AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(scale)
                elif bool((parameter == 0).all()):
                    parameter.normal_(0, 0.1)
    if dtype == torch.float64 and hasattr(config, "num_experts_per_tok"):
        model.set_experts_implementation("eager")  # torch's grouped products know no float64
    return model.to(dtype).eval()

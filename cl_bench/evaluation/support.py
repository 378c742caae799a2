"""Whether a model's prefixes may be shared: asked of its config, then tried on a few tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from cl_bench.evaluation.forward import Counters, PackedModel
from cl_bench.evaluation.packing import Layout, Limits
from cl_bench.evaluation.scoring import score_continuations
from cl_bench.evaluation.slots import SlotCache

TOLERANCE = 1e-3
"""Largest difference of a log-probability (nats) that fp32 rounding may cause in the trial."""
TOLERANCE_HALF = 0.3
"""The same for 16-bit weights: a wrong mask or position shifts it by far more."""
UNBOUNDED = 2**31


def why_not_shared(model: Any) -> tuple[str | None, int]:
    """(None, longest sequence whose prefixes may be shared), or the reason why none may.

    The trial computes a few tokens both ways; the model must be in evaluation mode. It finds what
    no config says: biases by distance, positions that are not passed on, caches of another form.
    """
    try:
        window = _window(model.config)
        if window is None:
            return "layers that are not plain attention", 0
        difference = max(_scoring_error(model), _decoding_error(model))
    except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
        return f"{type(error).__name__}: {error}", 0
    allowed = TOLERANCE if model.dtype in (torch.float32, torch.float64) else TOLERANCE_HALF
    if not difference <= allowed:
        return f"log-probabilities differ by {difference:.2g} nats", 0
    return None, window


def _window(config: Any) -> int | None:
    """The smallest attention window; None where a prefix is more than its keys and values."""
    layers = DynamicCache(config=config).layers
    if {type(layer).__name__ for layer in layers} <= {"DynamicLayer", "DynamicSlidingWindowLayer"}:
        return min((getattr(layer, "sliding_window", UNBOUNDED) for layer in layers), default=0)
    return None


def _tokens(model: Any, n: int) -> list[int]:
    """Token ids that differ, without a random number."""
    vocab = model.config.get_text_config().vocab_size
    return [int(i) for i in (np.arange(n) * 7919 + 13) % vocab]


def _scoring_error(model: Any) -> float:
    """Largest error of a log-probability in a tree with trunk, branches and a lone sequence."""
    ids = _tokens(model, 30)
    stem = ids[:6]
    sequences = [stem + ids[10:14], stem + ids[6:9] + ids[14:16], stem + ids[6:9] + ids[16:19]]
    sequences.append(ids[20:26])
    pairs = [(sequence[:-1], sequence[-1:]) for sequence in sequences]
    packed = PackedModel(model, Counters())
    scores = score_continuations(packed, pairs, Limits(batch=16, row=8, trunk=1))
    return max(
        abs(score - float(_plain(packed, tokens)[target[0]]))
        for (score, _), (tokens, target) in zip(scores, pairs, strict=True)
    )


def _decoding_error(model: Any) -> float:
    """Largest error of a log-probability when a token is decoded beside a shorter sequence."""
    packed = PackedModel(model, Counters())
    ids = _tokens(model, 8)
    n = len(ids) - 1
    prompt = Layout(np.array([ids[:n]]), np.arange(n)[None], None, ())
    cache = DynamicCache()
    packed.run(prompt, np.array([n - 1]), cache)
    slots = SlotCache(cache)
    slots.reserve(2, n + 1)
    slots.fill(0, cache, 0, torch.arange(2))
    slots.fill(1, cache, 0, torch.arange(n))
    lengths = torch.tensor([2, n], device=packed.device)
    look = torch.arange(n + 1, device=packed.device)[None] <= lengths[:, None]
    tokens = torch.tensor([ids[0], ids[n]], device=packed.device)
    logits = packed.step(tokens, lengths, look, slots.at(lengths, n + 1))
    decoded = torch.log_softmax(logits[1].float(), dim=-1)
    return float((decoded - _plain(packed, ids)).abs().max())


def _plain(packed: PackedModel, sequence: list[int]) -> torch.Tensor:
    """Next-token log-probabilities [V] after a sequence, by the model alone."""
    logits = packed.model(torch.tensor([sequence], device=packed.device)).logits
    return torch.log_softmax(logits[0, -1].float(), dim=-1)


def free_bytes(device: torch.device) -> int:
    """Memory that is free now on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)

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
        difference = _trial(model)
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


def _trial(model: Any) -> float:
    """Largest error of a log-probability, in a tree with branches and in a decoding step."""
    vocab = model.config.get_text_config().vocab_size
    # Token ids that differ, without a random number.
    ids = [int(i) for i in (np.arange(40) * 7919 + 13) % vocab]
    stem, branch = ids[:5], ids[5:8]
    sequences = [stem + ids[10:15], stem + branch + ids[15:17], stem + branch + ids[17:19]]
    sequences.append(ids[20:30])
    packed = PackedModel(model, Counters())
    plain = model(torch.tensor(sequences, device=packed.device)).logits.float()
    expected = torch.log_softmax(plain, dim=-1).cpu()
    pairs = [(tokens[:-1], tokens[-1:]) for tokens in sequences]
    scores = score_continuations(packed, pairs, Limits(batch=20, row=10, trunk=1))
    errors = [
        abs(score - float(expected[i, -2, target]))
        for i, ((score, _), (_, (target,))) in enumerate(zip(scores, pairs, strict=True))
    ]
    decoded = _decoded(packed, sequences[3])
    return max(*errors, float((decoded - expected[3, -1]).abs().max()))


def _decoded(packed: PackedModel, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities [V] after a sequence, its last two tokens decoded beside a shorter one."""
    n = len(tokens) - 1
    prompt = Layout(np.array([tokens[:n]]), np.arange(n)[None], None, ())
    cache = DynamicCache()
    packed.run(prompt, np.array([n - 1]), cache)
    slots = SlotCache(cache)
    slots.reserve(2, n + 1)
    slots.fill(0, cache, 0, torch.arange(2))
    slots.fill(1, cache, 0, torch.arange(n - 1))
    ids = torch.tensor([[tokens[0], tokens[1]], [tokens[n - 1], tokens[n]]])
    logits = packed.step(ids, [2, n - 1], slots)
    return torch.log_softmax(logits[1, 1].float(), dim=-1).cpu()


def free_bytes(device: torch.device) -> int:
    """Memory that is free now on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)

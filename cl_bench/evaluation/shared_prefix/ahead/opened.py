"""Whether a model's tokens are decoded ahead: not on a CPU, and only if a trial finds no fault."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import DynamicCache

from cl_bench.device_memory import first_line
from cl_bench.evaluation.shared_prefix.ahead.block import Block
from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.packing import PackLayout
from cl_bench.evaluation.shared_prefix.sharing_trial import SharingTrial

SETS = 3
DECODED = 2
_FOUND: dict[Any, str | None] = {}


def is_worthwhile(device: torch.device) -> bool:
    """Whether steps of one shape without a look of the host are faster than the fewest products.

    A CPU does what it is told at once, and computes nothing for nobody.
    """
    return device.type != "cpu"


def why_not_ahead(model: Any) -> str | None:
    """Why a model that shares prefixes cannot be decoded ahead; None where it can.

    The model must be in evaluation mode. Tried once in a process for models of one class, config,
    dtype and device.
    """
    kind = (type(model), type(model).forward, model.config.to_json_string(), model.dtype)
    key = (*kind, model.config._attn_implementation, str(model.device))
    if key not in _FOUND:
        try:
            trial = SharingTrial(model, SETS)
            _FOUND[key] = trial.fault(lambda sequences: _decoded(trial, sequences))
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError) as error:
            _FOUND[key] = f"{type(error).__name__}: {first_line(error)}"
    return _FOUND[key]


def decoding_note(model: Any) -> str | None:
    """A line about a model that should be decoded ahead and cannot be."""
    reason = why_not_ahead(model) if is_worthwhile(model.device) else None
    if reason is None:
        return None
    return f"texts are generated one token at a time, and the host waits for each ({reason})"


def _decoded(trial: SharingTrial, sequences: list[list[int]]) -> torch.Tensor:
    """Log-probabilities [sequences, DECODED, targets] after the last tokens of each, fed one by one
    to one block; the row behind them is nobody's."""
    ids = np.array(sequences)
    held = ids.shape[1] - DECODED
    positions = np.tile(np.arange(held), (len(ids), 1))
    cache = DynamicCache()
    trial.packed.run(PackLayout(ids[:, :held], positions, None, ()), np.array([held - 1]), cache)
    slots = SlotCache(cache)
    slots.reserve(len(ids) + 1, ids.shape[1] + 1)
    for row in range(len(ids)):
        slots.fill(row, cache, row, torch.arange(held))
    block = Block(trial.packed, slots, len(ids) + 1, slots.columns)
    found = []
    for i in range(held, held + DECODED):
        block.run(ids[:, i].tolist(), [i] * len(ids), 1)
        assert block.logits is not None, "after a step"
        found.append(trial.log_p(block.logits[: len(ids)]))
    return torch.stack(found, dim=1)

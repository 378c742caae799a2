"""Fused layers while a model is scored: put in place, and tried against the model's own layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from cl_bench.evaluation.shared_prefix.ahead.opened import is_worthwhile, why_not_ahead
from cl_bench.evaluation.shared_prefix.cpu_packed_weights import packed_linears
from cl_bench.evaluation.shared_prefix.fused.layers import FusedLayers, fused_layers
from cl_bench.evaluation.shared_prefix.fused.memory import StoreMemory
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel
from cl_bench.evaluation.shared_prefix.packing import PassLimits, packs_of
from cl_bench.evaluation.shared_prefix.sharing_trial import SharingTrial
from cl_bench.evaluation.shared_prefix.slot_memory import Room
from cl_bench.evaluation.shared_prefix.tree import build_forest

SETS = 3
DECODED = 2
"""Tokens of the trial's sequences that are decoded; those before are read in passes."""
_FOUND: dict[Any, bool] = {}


@contextmanager
def reading(packed: PackedModel) -> Iterator[None]:
    """A model that shares prefixes as it computes log-likelihoods fastest here.

    Its weights must not change meanwhile, and nothing else may call it.
    """
    # Not packed: sums over a sentence would be 2e-4 nats off HFLM's, not 1e-4.
    fused = fused_layers(packed.model, packed=False)
    if fused is None or not is_right(packed.model, fused):
        yield
        return
    packed.fused = fused
    try:
        with fused.in_place():
            yield
    finally:
        packed.fused = None


@contextmanager
def generating(packed: PackedModel, shared: bool = True) -> Iterator[None]:
    """A model as it generates fastest here; `shared`: whether its prefixes may be shared.

    Its weights must not change meanwhile.
    """
    fused = fused_layers(packed.model, before=packed.kept) if shared else None
    if fused is not None and not is_right(packed.model, fused):
        fused = None
    with packed_linears(packed.model, () if fused is None else fused.linears()):
        packed.fused = packed.kept = fused
        packed.ahead = shared and is_worthwhile(packed.device) and not why_not_ahead(packed.model)
        try:
            yield
        finally:
            packed.fused, packed.ahead = None, False


def is_right(model: Any, fused: FusedLayers) -> bool:
    """Whether fused layers compute what the model's own do, up to its own rounding.

    A few tokens tell: done once in a process for models of one class, config and dtype, packed or
    not, which is tried where weights are packed.
    """
    kind = type(model), type(model).forward, model.config.to_json_string(), model.dtype
    if kind not in _FOUND:
        try:
            trial = SharingTrial(model, SETS)
            found = trial.fault(lambda sequences: _computed(trial, fused, sequences))
            _FOUND[kind] = found is None
        except (TypeError, ValueError, RuntimeError, AttributeError, KeyError, IndexError):
            _FOUND[kind] = False
    return _FOUND[kind]


def _computed(trial: SharingTrial, fused: FusedLayers, sequences: list[list[int]]) -> torch.Tensor:
    """Log-probabilities [sequences, 1 + DECODED, targets] after the prompts and each new token."""
    held = len(sequences[0]) - DECODED
    prompts = [tokens[:held] for tokens in sequences]
    packs = list(packs_of(build_forest(prompts), PassLimits(batch=60, row=20, trunk=1)))
    room = Room(len(prompts), 2**30)
    memory = StoreMemory(fused, packs, [DECODED] * len(prompts), room, Counters(), worth_sharing=1)
    order: list[int] = []
    first: list[torch.Tensor] = []
    for pack in packs:
        memory.has_room(pack, [0] * len(order))
        ending, logits = memory.prefill(pack)
        for place, request in ending:
            memory.start(place, request)
            order.append(request)
        first.append(trial.log_p(logits))
        memory.end_pass()
    # One alone and one beside another: tokens of a step see the step's own keys.
    fed = [sequences[i][held:] for i in order]
    rest = trial.log_p(memory.step(fed, [held] * len(order))).view(len(order), DECODED, -1)
    found = torch.empty(len(order), 1 + DECODED, rest.shape[-1])
    found[torch.tensor(order)] = torch.cat([torch.cat(first)[:, None], rest], dim=1)
    return found

"""The training loss: cross-entropy of the answer tokens, with logits at answer positions only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.training.cross_entropy import summed_cross_entropy
from cl_bench.training.idle import IDLE
from cl_bench.training.last_mlp import mlp_at_answers

OF_LOSSES = ("labels", "example", IDLE)
"""Keys of a batch that are no inputs of the model."""


@dataclass(frozen=True)
class AnswerOutputs:
    """What methods may need of a forward pass. N answer tokens in row-major (sample, time) order.

    logits [N, V] in the model's dtype, labels int64 [N]; rows int64 [N]: which sample of the
    batch; columns int64 [N]: the position whose logits predict the label (the token before it).
    """

    logits: Tensor
    labels: Tensor
    rows: Tensor
    columns: Tensor


def answer_loss(
    model: nn.Module, batch: Mapping[str, Tensor], denominator: float
) -> tuple[Tensor, AnswerOutputs]:
    """Sum over answer tokens of the cross-entropy (float32), divided by `denominator`.

    `batch`: input_ids, attention_mask, labels [B, T] (Hugging Face's convention: -100 is no
    answer, position t predicts label t+1), and what else the model takes; `example` is left out.
    `denominator`: answer tokens of the whole effective batch over all processes.
    """
    outputs = answer_logits(model, batch)
    return summed_cross_entropy(outputs.logits, outputs.labels) / denominator, outputs


def answer_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> AnswerOutputs:
    """Forward pass whose head and last MLP see answer positions alone (`batch` as above)."""
    shifted = batch["labels"][:, 1:]
    rows, columns = (shifted != -100).nonzero(as_tuple=True)
    labels = shifted[rows, columns]
    inputs = model_inputs(model, batch)
    head = _output_layer(model)
    if head is not None and not _is_compiled(model):
        length = batch["labels"].shape[1]
        with _only_positions(head, rows, columns), mlp_at_answers(model, rows, columns, length):
            logits = model(**inputs).logits[0]
    elif "logits_to_keep" in _accepted(model):
        # Compiled code does not see hooks that change; the union over samples is close enough.
        kept, place = torch.unique(columns, return_inverse=True)
        logits = model(**inputs, logits_to_keep=kept).logits[rows, place]
    else:
        logits = model(**inputs).logits[rows, columns]
    return AnswerOutputs(logits, labels, rows, columns)


def model_inputs(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the model takes of `batch`, with the positions that left padding shifts, no cache."""
    inputs: dict[str, Any] = {key: value for key, value in batch.items() if key not in OF_LOSSES}
    accepted = _accepted(model)
    mask = inputs.get("attention_mask")
    if mask is not None and "position_ids" not in inputs and "position_ids" in accepted:
        inputs["position_ids"] = (mask.long().cumsum(-1) - 1).clamp_(min=0)
    if "use_cache" in accepted:
        inputs["use_cache"] = False
    return inputs


def _accepted(model: nn.Module) -> set[str]:
    base: Any = getattr(model, "_orig_mod", model)
    base = base.get_base_model() if hasattr(base, "get_base_model") else base
    return set(inspect.signature(type(base).forward).parameters)


def _output_layer(model: nn.Module) -> nn.Module | None:
    find: Any = getattr(model, "get_output_embeddings", None)
    return find() if find else None


def _is_compiled(model: nn.Module) -> bool:
    return getattr(model, "_compiled_call_impl", None) is not None or hasattr(model, "_orig_mod")


@contextmanager
def _only_positions(head: nn.Module, rows: Tensor, columns: Tensor) -> Iterator[None]:
    """While open, `head` sees [1, N, D]: the hidden states [B, T, D] at (rows, columns)."""

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0][rows, columns].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(gather)
    try:
        yield
    finally:
        handle.remove()

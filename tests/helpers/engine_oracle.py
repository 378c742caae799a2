"""lm-eval's own engine, and the requests both engines answer."""

from __future__ import annotations

import copy
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    """lm-eval's requests of one kind."""
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def hflm(model: Any, tokenizer: Any, **options: Any) -> HFLM:
    """`HFLM` with fp32 softmax, one request at a time; the tokenizer stays as it is.

    Without its cache of logits, which takes the wrong positions (lm-eval 0.4.13) where two
    requests have equal tokens up to the last one but another number of scored tokens.
    """
    return HFLM(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),
        softmax_dtype="float32",
        **{"batch_size": 1, "logits_cache": False, **options},
    )


def mean_cross_entropy(model, tokenizer, prompt: str, window: int = 2048) -> tuple[float, int]:
    """The protocol's formula, one prompt at a time."""
    ids = torch.tensor([tokenizer(prompt).input_ids[-window:]])
    with torch.no_grad():
        logits = model(ids).logits[0].float()
    total = 0.0
    for position in range(ids.shape[1] - 1):
        total -= torch.log_softmax(logits[position], -1)[ids[0, position + 1]].item()
    return total / ids.shape[1], ids.shape[1]

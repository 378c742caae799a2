"""lm-eval's own engine, and the requests both engines answer."""

from __future__ import annotations

import copy
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    """lm-eval's requests of one kind."""
    return [Instance(kind, {}, args, i) for i, args in enumerate(arguments)]


def hflm(model: Any, tokenizer: Any, **options: Any) -> HFLM:
    """`HFLM` with fp32 softmax, one request at a time; the tokenizer stays as it is."""
    return HFLM(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),
        softmax_dtype="float32",
        **{"batch_size": 1, **options},
    )

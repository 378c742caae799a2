"""Which lm-evaluation-harness `LM` answers the requests."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.models.huggingface import HFLM

from cl_bench.errors import UserError, nearest
from cl_bench.evaluation.engine import EncodePrompts, Progress, SharedPrefixLM

ENGINES = ("cl-bench", "hf")


class TruncatingHFLM(HFLM):  # type: ignore[misc]
    """lm-eval's own `HFLM`, with the prompts of generation requests cut as in training."""

    encode_prompts: EncodePrompts | None = None

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and mask [B, T], padded on the left."""
        if self.encode_prompts is None:
            encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(
                strings, padding_side, left_truncate_len, truncation
            )
            return encoded
        rows = self.encode_prompts(strings)
        if left_truncate_len:
            rows = [row[-left_truncate_len:] for row in rows]
        width = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return ids, mask


def engine_fault(engine: str) -> str | None:
    """What is wrong with `--engine`, or None."""
    return None if engine in ENGINES else f"--engine {engine}: unknown{nearest(engine, ENGINES)}"


def build_lm(
    engine: str,
    model: Any,
    tokenizer: Any,
    encode_prompts: EncodePrompts | None = None,
    progress: Progress | None = None,
    batch_size: int = 16,
) -> Any:
    """An `LM` over a model in memory; `encode_prompts` is for generation requests."""
    if fault := engine_fault(engine):
        raise UserError(fault)
    if engine == "cl-bench":
        return SharedPrefixLM(model, tokenizer, encode_prompts=encode_prompts, progress=progress)
    lm = TruncatingHFLM(
        pretrained=model,
        tokenizer=tokenizer,
        batch_size=batch_size,
        softmax_dtype="float32",
    )
    lm.encode_prompts = encode_prompts
    return lm

"""Answers of a model whose logits are no numbers: marked where they are made, never scored.

A logit of -inf excludes a token, which vocabularies with unused rows do. NaN, +inf, and -inf for
every token are no distribution: whatever is picked from them means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
IN_A_ROW = 8
"""So many requests that stay without a number when they are asked alone: the model has none."""


class NotFinite(str):
    """A generated text of which a token was picked from logits that are no numbers."""

    __slots__ = ()


def is_distribution(logits: Tensor, picked: Tensor) -> Tensor:
    """Whether rows of logits [..., V] can be picked from; `picked` [...] is their argmax.

    NaN and +inf are an argmax, and -inf is one where there is nothing else.
    """
    return logits.gather(-1, picked[..., None])[..., 0].isfinite()


def ask_again(bad: Sequence[int], ask: Callable[[int], T | None]) -> dict[int, T]:
    """What requests without a number get when nothing is computed beside them.

    What is masked counts with weight 0, and 0 times NaN is NaN: documents that share a pass with a
    bad one have no number either. `ask` gives None where there is none alone. Ends after the first
    `IN_A_ROW` such in a row, so that a model without any number is not asked everything twice.
    """
    found: dict[int, T] = {}
    row = 0
    for request in bad:
        answer = ask(request)
        if answer is not None:
            found[request] = answer
        row = row + 1 if answer is None else 0
        if row == IN_A_ROW:
            break
    return found


class Watch:
    """A logits processor of `generate`: where it has first seen a row that is no distribution."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.first: list[int | None] = [None] * rows
        """Of each sequence: the length with which it came to the bad logits."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The scores [B, V], with zeros for bad rows: sampling from them would raise."""
        fine = scores.amax(dim=-1).isfinite()
        if bool(fine.all()):
            return scores
        beams = len(scores) // self.rows
        for row in torch.nonzero(~fine)[:, 0].tolist():
            if self.first[row // beams] is None:
                self.first[row // beams] = int(input_ids.shape[1])
        return torch.where(fine[:, None], scores, torch.zeros_like(scores))


class Watched:
    """Put before lm-eval's `HFLM` among a class's bases: its texts are marked as `NotFinite`."""

    tokenizer: Any
    _asked: Sequence[str] = ()
    """The prompts of the batch that is generated."""
    _bad: frozenset[str] = frozenset()

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """As the class itself; requests with equal prompts are marked together."""
        self._bad = frozenset()
        texts = super().generate_until(requests, disable_tqdm)  # type: ignore[misc]
        return [
            NotFinite(text) if request.args[0] in self._bad else text
            for request, text in zip(requests, texts, strict=True)
        ]

    def tok_batch_encode(self, strings: list[str], *args: Any, **options: Any) -> Any:
        """As the class itself."""
        self._asked = strings
        return super().tok_batch_encode(strings, *args, **options)  # type: ignore[misc]

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kw: Any) -> Any:
        watch = Watch(len(context))
        found = super()._model_generate(  # type: ignore[misc]
            context, max_length=max_length, stop=stop, logits_processor=[watch], **kw
        )
        for prompt, ids, end in zip(self._asked, found.tolist(), watch.first, strict=True):
            # A batch goes on until its last sequence has ended.
            if end is not None and not self._ended(ids[context.shape[1] : end], stop):
                self._bad |= {prompt}
        return found

    def _ended(self, ids: list[int], stop: list[str]) -> bool:
        if self.tokenizer.eos_token_id in ids:
            return True
        text = self.tokenizer.decode(ids)
        return any(end in text for end in stop if end)


def watched(model_class: Any) -> Any:
    """A class of lm-eval's with its texts marked, where it generates as `HFLM` does; else itself.

    Of other engines it is not known what a text was picked from.
    """
    from lm_eval.models.huggingface import HFLM

    if getattr(model_class, "_model_generate", None) is not HFLM._model_generate:
        return model_class
    return type(model_class.__name__, (Watched, model_class), {})

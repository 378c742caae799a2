"""The largest of all scores of a model, found without laying them one behind the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

_DIGIT = 16
"""Bits that one pass over the scores counts: 65536 bins."""


def largest(scores: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Masks (bool, of the scores' shapes) of the `count` largest scores of all tensors together.

    Scores are non-negative, float32 or float64 and all of one dtype. Zeros are never chosen; of
    equal scores at the threshold those that come first are. Needs one tensor's size in addition.
    """
    threshold, above = threshold_of(scores.values(), count)
    left = count - above
    masks = {}
    for name, score in scores.items():
        mask = _bits(score) > threshold
        tied = ((_bits(score) == threshold) & (score > 0)).flatten().nonzero().squeeze(1)[:left]
        mask.view(-1)[tied] = True
        left -= len(tied)
        masks[name] = mask
    return masks


def threshold_of(scores: Iterable[Tensor], count: int) -> tuple[int, int]:
    """Bits of the `count`-th largest score, and how many scores are larger; (-1, all) if fewer.

    The bits of non-negative floats are in the order of their values, so that a histogram of the
    highest 16 says where the threshold's are, one of the next 16 among those where it is there,
    and so on: two passes for float32, four for float64, and the threshold is exact.
    """
    scores = list(scores)
    width = 64 if any(score.dtype == torch.float64 for score in scores) else 32
    if sum(score.numel() for score in scores) <= count:
        return -1, sum(score.numel() for score in scores)
    prefix, above = 0, 0
    for shift in range(width - _DIGIT, -1, -_DIGIT):
        bins = torch.zeros(2**_DIGIT, dtype=torch.int64)
        for score in scores:
            digits = _bits(score).flatten()
            if shift < width - _DIGIT:
                digits = digits[(digits >> (shift + _DIGIT)) == prefix]
            digits = (digits >> shift) & (2**_DIGIT - 1)
            bins += torch.bincount(digits, minlength=2**_DIGIT).cpu()
        larger = bins.flip(0).cumsum(0).flip(0)  # in this bin or a higher one
        digit = int((above + larger >= count).nonzero().max())
        above += int(larger[digit] - bins[digit])
        prefix = (prefix << _DIGIT) | digit
    return prefix, above


def _bits(score: Tensor) -> Tensor:
    """The bits of non-negative floats as integers, whose order is theirs."""
    return score.contiguous().view(torch.int64 if score.dtype == torch.float64 else torch.int32)

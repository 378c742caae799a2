"""Where a quantile lies among sorted values: one rounding for thresholds and for what they cost."""

from __future__ import annotations

import math
from fractions import Fraction


def quantile_place(count: int, q: float) -> tuple[int, float]:
    """Place below the `q`-quantile of `count` sorted values, and how far on towards the next.

    Computed with `q` as it is written: 0.7 of 90 steps is place 63, where floats say 62.99999.
    For `count >= 1` and `0 <= q <= 1`.
    """
    position = Fraction(str(q)) * (count - 1)
    low = math.floor(position)
    return low, float(position - low)


def above_quantile(count: int, q: float) -> int:
    """How many of `count` distinct values lie above their `q`-quantile."""
    return count - 1 - quantile_place(count, q)[0]

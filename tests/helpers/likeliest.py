"""The variance of a paired difference of rates, by a search of the likelihood."""

from __future__ import annotations

from math import log

from scipy.optimize import minimize_scalar


def likeliest_variance(forgotten: int, learned: int, n: int, true: float) -> float:
    """Of (learned - forgotten) / n, with the likeliest rates whose difference is `true`."""

    def unlikely(rate: float) -> float:
        chances = (rate, rate + true, 1 - 2 * rate - true)
        counts = (forgotten, learned, n - forgotten - learned)
        return -sum(k * log(max(p, 1e-300)) for k, p in zip(counts, chances, strict=True) if k)

    lowest, highest = max(0.0, -true), min(1.0, (1 - true) / 2)
    found = minimize_scalar(
        unlikely, bounds=(lowest, highest), method="bounded", options={"xatol": 1e-10}
    )
    return float(2 * found.x + true - true**2) / n

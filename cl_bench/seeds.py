"""Seeds for separate purposes, derived from the one in the config."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) fixed by `parts`; different purposes get independent streams."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def shuffled(size: int, count: int, seed: int) -> list[int]:
    """The first `count` of `torch.randperm(size)` with a CPU generator of this seed.

    Made here, because importing torch takes longer than everything that needs no more of it than
    this; torch has drawn so since its first versions, and a test compares them.
    """
    twister = np.random.RandomState(seed & 0xFFFFFFFF)
    order = list(range(size))
    draws = twister.randint(0, 2**32, max(min(count, size - 1), 0), dtype=np.uint32).tolist()
    for i, draw in enumerate(draws):
        j = i + draw % (size - i)
        order[i], order[j] = order[j], order[i]
    return order[:count]

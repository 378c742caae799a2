"""Seeded order without torch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.seeds import shuffled


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 2**63 - 1))
def test_a_shuffle_is_that_of_torch(size: int, count: int, seed: int) -> None:
    theirs = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    assert shuffled(size, count, seed) == theirs[:count]


def test_so_is_one_of_many() -> None:
    theirs = torch.randperm(150_000, generator=torch.Generator().manual_seed(2**40 + 7))
    assert shuffled(150_000, 900, 2**40 + 7) == theirs[:900].tolist()

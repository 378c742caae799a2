"""Who looks at what in a pass: the jobs of the compiled attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from cl_bench.evaluation.shared_prefix.fused.compiled import Heads, Jobs
from cl_bench.evaluation.shared_prefix.fused.store import Extent

Range = tuple[int, int]
"""First place and length, in tokens."""
WORTH_SHARING = 48
"""Tokens of an extent that are read once for all its sequences: their parts must be joined."""


def ranges_of(extents: Sequence[Extent]) -> list[Range]:
    """Places of what extents hold."""
    return joined_ranges((extent.start, extent.length) for extent in extents)


def joined_ranges(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in their order without empty ones, neighbours as one."""
    found: list[Range] = []
    for start, length in ranges:
        if found and sum(found[-1]) == start:
            found[-1] = (found[-1][0], found[-1][1] + length)
        elif length:
            found.append((start, length))
    return found


class JobList:
    """Jobs, as they are added."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self._jobs: list[list[int]] = []
        self._tokens: list[int] = []
        self._ranges: list[Range] = []
        self._parts: dict[int, list[int]] = {}
        self._lanes = 0

    def add_rows(self, first: int, count: int, ranges: Sequence[Range]) -> None:
        """Tokens first .. first + count - 1 of the pass, the last keys of the ranges, which they
        may see up to themselves."""
        (start, length), before = ranges[-1], ranges[:-1]
        for at in range(0, count, self.heads.tokens):
            n = min(self.heads.tokens, count - at)
            end = length - count + at + n
            self._add(range(first + at, first + at + n), [*before, (start, end)], -1, True)

    def add_part(self, tokens: Sequence[int], ranges: Sequence[Range], causal: bool) -> None:
        """A part of what each of the tokens looks at; `causal` as in `add_rows`, for few."""
        step = self.heads.tokens
        for at in range(0, len(tokens), step):
            some = tokens[at : at + step]
            for i, token in enumerate(some):
                self._parts.setdefault(token, []).append(self._lanes + i * self.heads.shared)
            self._add(some, ranges, self._lanes, causal)
            self._lanes += len(some) * self.heads.shared

    def _add(self, tokens: Sequence[int], ranges: Sequence[Range], lane: int, causal: bool) -> None:
        places = len(self._tokens), len(tokens), len(self._ranges), len(ranges)
        self._jobs.append([*places, lane, causal])
        self._tokens.extend(tokens)
        self._ranges.extend(ranges)

    def made(self) -> Jobs:
        """All of them."""
        wholes, parts = [], list[int]()
        for token, lanes in self._parts.items():
            wholes.append([token, len(parts), len(lanes)])
            parts += lanes
        ranges = _numbers(self._ranges, 2)
        ranges[:, 0] *= self.heads.size
        return Jobs(
            _numbers(self._jobs, 6),
            _numbers(self._tokens, 1),
            ranges,
            _numbers(wholes, 3),
            _numbers(parts, 1),
            self._lanes,
        )


def _numbers(rows: Sequence[Sequence[int]] | Sequence[int], wide: int) -> Tensor:
    return torch.tensor(rows, dtype=torch.long).view(-1, wide)


def decoding_jobs(
    heads: Heads,
    sequences: Sequence[Sequence[Extent]],
    news: Sequence[int],
    worth_sharing: int = WORTH_SHARING,
) -> JobList:
    """Jobs of a step. Sequence i has `news[i]` new tokens, side by side in the pass, whose places
    are the last ones of its last extent."""
    jobs = JobList(heads)
    shared: dict[int, tuple[Extent, list[int]]] = {}
    own: list[tuple[list[int], list[Extent], bool]] = []
    first = 0
    for extents, count in zip(sequences, news, strict=True):
        tokens = list(range(first, first + count))
        alone = []
        for extent in extents[:-1]:
            if extent.users > 1 and extent.length >= worth_sharing:
                shared.setdefault(id(extent), (extent, []))[1].extend(tokens)
            else:
                alone.append(extent)
        own.append((tokens, [*alone, extents[-1]], len(alone) + 1 == len(extents)))
        first += count
    for extent, tokens in shared.values():
        jobs.add_part(tokens, [(extent.start, extent.length)], causal=False)
    for tokens, extents, whole in own:
        if whole:
            jobs.add_rows(tokens[0], len(tokens), ranges_of(extents))
        else:
            jobs.add_part(tokens, ranges_of(extents), causal=True)
    return jobs

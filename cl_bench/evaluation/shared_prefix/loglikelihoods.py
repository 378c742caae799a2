"""Log-likelihoods of continuations, each shared prefix computed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan
from operator import itemgetter
from typing import Protocol

import numpy as np
import torch

from cl_bench.evaluation.finite import ask_again
from cl_bench.evaluation.shared_prefix.cpu_two_passes import in_streams
from cl_bench.evaluation.shared_prefix.fused.reading import StoreReader
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel
from cl_bench.evaluation.shared_prefix.packing import (
    Array,
    Pack,
    PackLayout,
    PassLimits,
    packs_of,
)
from cl_bench.evaluation.shared_prefix.readers import ModelReader, Reader
from cl_bench.evaluation.shared_prefix.tree import Segment, build_forest, preorder

Answers = tuple[Array, np.ndarray, np.ndarray]
"""Of a pass: requests, log-probabilities of their targets, and whether these are the argmax."""
SLICE = 256
"""Rows of logits in fp32 at a time."""


@dataclass(frozen=True)
class Scored:
    """What a request asks about the tokens of one segment."""

    offsets: Array
    targets: Array
    request: int


class Dealing(Protocol):
    """How several processes share the passes of one call (`among.py`)."""

    def own(self, packs: Sequence[Pack]) -> Sequence[int]:
        """Which of them this process runs, in order."""

    def merged(self, run: Callable[[], dict[int, Answers]]) -> Mapping[int, Answers]:
        """The answers of all processes, by pass, where this one's are what `run` gives."""


def score_continuations(
    model: PackedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    limits: PassLimits,
    progress: Callable[[int], None] | None = None,
    dealing: Dealing | None = None,
) -> list[tuple[float, bool]]:
    """For each (input, targets): log p of the targets in nats, and whether all are the argmax.

    The targets, at least one, are predicted at the last `len(targets)` positions of the input
    (which therefore lacks the last target, and may share tokens with the targets). Softmax in
    fp32, sums in fp64. `progress` is called with the number of requests answered so far. With
    `dealing` the passes are run by several processes, and the answers are those of one to the bit.
    """
    scores = _score(model, pairs, limits, progress, dealing)

    def alone(i: int) -> tuple[float, bool] | None:
        (score,) = _score(model, [pairs[i]], limits)
        return None if isnan(score[0]) else score

    bad = [i for i, (value, _) in enumerate(scores) if isnan(value)]
    for i, score in ask_again(bad, alone).items():
        scores[i] = score
    return scores


def _score(
    model: PackedModel,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    limits: PassLimits,
    progress: Callable[[int], None] | None = None,
    dealing: Dealing | None = None,
) -> list[tuple[float, bool]]:
    roots = build_forest([tokens for tokens, _ in pairs])
    asked = _assign(roots, pairs)
    sums = np.zeros(len(pairs))
    greedy = np.ones(len(pairs), dtype=np.bool_)
    left = np.asarray([len(targets) for _, targets in pairs])

    def take(_: int, answers: Answers) -> None:
        requests, values, best = answers
        np.add.at(sums, requests, values)
        np.logical_and.at(greedy, requests, best)
        np.subtract.at(left, requests, 1)
        if progress is not None:
            progress(int((left == 0).sum()))

    packs = list(packs_of(roots, limits))
    if dealing is None:
        _run(model, packs, range(len(packs)), asked, take)
    else:

        def run() -> dict[int, Answers]:
            own: dict[int, Answers] = {}
            _run(model, packs, dealing.own(packs), asked, own.__setitem__)
            return own

        for i, answers in sorted(dealing.merged(run).items(), key=itemgetter(0)):
            take(i, answers)
    return [(float(total), bool(is_best)) for total, is_best in zip(sums, greedy, strict=True)]


def _run(
    model: PackedModel,
    packs: Sequence[Pack],
    chosen: Sequence[int],
    asked: dict[Segment, list[Scored]],
    take: Callable[[int, Answers], None],
) -> None:
    """Compute the chosen passes in order, with one trunk; `take` gets the answers of each."""
    reader = reader_for(model, packs)

    def answer(reader: Reader, i: int) -> tuple[int, Answers]:
        layout = reader.lay_out(packs[i])
        keep, targets, requests = _questions(layout, asked)
        positions, row = np.unique(keep, return_inverse=True)
        logits = reader.run(packs[i], layout, positions)
        return i, (requests, *_answers(model, logits, row, targets))

    for alone, group in groupby(chosen, lambda i: packs[i].stands_alone):
        if alone:
            in_streams(reader, list(group), answer, lambda found: take(*found))
            continue
        for i in group:
            take(*answer(reader, i))


def reader_for(model: PackedModel, packs: Sequence[Pack]) -> Reader:
    """Fused layers, else the model's own."""
    if model.fused is None:
        return ModelReader(model)
    longest = max((pack.past + pack.tokens for pack in packs), default=0)
    return StoreReader(model.fused, longest, model.counters)


def _assign(
    roots: Sequence[Segment], pairs: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> dict[Segment, list[Scored]]:
    """Hang every request's targets on the segments whose tokens predict them."""
    asked: dict[Segment, list[Scored]] = defaultdict(list)
    for leaf in preorder(roots):
        for request in leaf.ends:
            targets = np.asarray(pairs[request][1], dtype=np.int64)
            begin = leaf.end - len(targets)
            segment: Segment | None = leaf
            while segment is not None and segment.end > begin:
                first = max(segment.start, begin)
                offsets = np.arange(first, segment.end) - segment.start
                part = targets[first - begin : segment.end - begin]
                asked[segment].append(Scored(offsets, part, request))
                segment = segment.parent
    return asked


def _questions(
    layout: PackLayout, asked: dict[Segment, list[Scored]]
) -> tuple[Array, Array, Array]:
    """Flat positions in the pass, targets and requests, for what it computes for the first time."""
    width = layout.ids.shape[1]
    keep, targets, requests = [], [], []
    for placed in layout.placed:
        if placed.first:
            for scored in asked.pop(placed.segment, []):
                keep.append(placed.row * width + placed.columns[scored.offsets])
                targets.append(scored.targets)
                requests.append(np.full(len(scored.targets), scored.request))
    empty = np.zeros(0, dtype=np.int64)
    return (
        np.concatenate([empty, *keep]),
        np.concatenate([empty, *targets]),
        np.concatenate([empty, *requests]),
    )


def _answers(
    model: PackedModel, logits: torch.Tensor, row: Array, targets: Array
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probability of each target and whether it is the argmax, from logits [positions, V]."""
    rows = torch.from_numpy(row).to(logits.device)
    wanted = torch.from_numpy(targets).to(logits.device)
    values = torch.zeros(len(targets), device=logits.device)
    best = torch.zeros(len(targets), dtype=torch.bool, device=logits.device)
    for start in range(0, len(logits), SLICE):
        part = logits[start : start + SLICE]
        asked = torch.nonzero((rows >= start) & (rows < start + SLICE))[:, 0]
        place = rows[asked] - start
        # The function HFLM uses: on a CPU its rounding is 5e-5 nats a token off the true value,
        # so a more exact one would differ from HFLM by more than 1e-4 over a sentence.
        values[asked] = torch.log_softmax(part.float(), dim=-1)[place, wanted[asked]]
        best[asked] = model.largest(part)[place] == wanted[asked]
    return values.cpu().numpy(), best.cpu().numpy()

"""The order of the data, micro-batches, and padded tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
from torch import Tensor

from cl_bench.seeds import derive_seed

if TYPE_CHECKING:
    from cl_bench.data.tokens import Encoded

IGNORE = -100
"""Label of positions that are not trained on (Hugging Face's convention)."""


class Batch(TypedDict):
    """What `collate` returns; B examples padded to T tokens."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    answer_tokens: int


def epoch_batches(
    lengths: Sequence[int], *, batch_size: int, seed: int, stage: int, epoch: int
) -> list[list[int]]:
    """Effective batches of example indices: shuffled globally, sorted by length inside each.

    The order depends on (seed, stage, epoch) and the number of examples alone, never on the
    global random state, the method or the number of processes. `lengths` are token counts;
    equal ones keep their shuffled order. The last batch may be smaller.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    generator = torch.Generator().manual_seed(derive_seed(seed, stage, epoch, "order"))
    order: list[int] = torch.randperm(len(lengths), generator=generator).tolist()
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [sorted(batch, key=lambda index: lengths[index]) for batch in batches]


def micro_batches(
    batch: Sequence[int],
    lengths: Sequence[int],
    micro_batch_size: int | Literal["auto"],
    token_budget: int,
    group: Callable[[int], int] | None = None,
) -> list[list[int]]:
    """Cuts an effective batch, in its order, into what goes through the model at once.

    A number cuts into that many examples. `auto` takes as many as fit in `token_budget` tokens
    once padded to the longest; an example longer than the budget goes alone. Lengths to which
    `group` gives different numbers never stand together.
    """
    if group is not None:
        alike = [list(part) for _, part in groupby(batch, lambda i: group(lengths[i]))]
        return [
            part
            for one in alike
            for part in micro_batches(one, lengths, micro_batch_size, token_budget)
        ]
    if micro_batch_size != "auto":
        if micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be at least 1, got {micro_batch_size}")
        return [
            list(batch[i : i + micro_batch_size]) for i in range(0, len(batch), micro_batch_size)
        ]
    parts: list[list[int]] = []
    longest = 0
    for index in batch:
        longest = max(longest, lengths[index])
        if parts and (len(parts[-1]) + 1) * longest <= token_budget:
            parts[-1].append(index)
        else:
            parts.append([index])
            longest = lengths[index]
    return parts


def cut(part: Sequence[int], pieces: int) -> list[list[int]]:
    """A micro-batch in so many pieces of nearly equal size, in order; at least one example each."""
    size, more = divmod(len(part), min(pieces, len(part)))
    bounds = [i * size + min(i, more) for i in range(min(pieces, len(part)) + 1)]
    return [list(part[a:b]) for a, b in pairwise(bounds)]


def for_process(parts: Sequence[list[int]], rank: int, world: int) -> list[list[int]]:
    """The micro-batches of process `rank` out of `world`: every `world`-th one.

    Over all ranks they are all of them, once each. Neighbours are of similar length, so the
    shares are too; the last ranks may have one micro-batch less.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank must be in [0, {world}), got {rank}")
    return list(parts[rank::world])


def collate(
    encoded: Sequence[Encoded],
    pad_id: int,
    side: Literal["right", "left"] = "right",
    multiple_of: int = 1,
) -> Batch:
    """Padded tensors `input_ids`, `attention_mask`, `labels`: int64 [B, T].

    Labels are the tokens of the answer and its EOS, and of what is learned before (`earlier`), -100
    elsewhere, not shifted. Pads have
    attention 0 whatever `pad_id` is. T is the longest length rounded up to `multiple_of`.
    `answer_tokens` counts the labels that a shifted loss sees (all but a label at position 0 of
    the sequence).
    """
    longest = max((len(item.input_ids) for item in encoded), default=0)
    width = -(-longest // multiple_of) * multiple_of
    ids = torch.full((len(encoded), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORE)
    for row, item in enumerate(encoded):
        start = width - len(item.input_ids) if side == "left" else 0
        stop = start + len(item.input_ids)
        ids[row, start:stop] = torch.tensor(item.input_ids, dtype=torch.int64)
        mask[row, start:stop] = 1
        for first, last in (*item.earlier, (item.prompt_length, len(item.input_ids))):
            learned = slice(start + first, start + last)
            labels[row, learned] = ids[row, learned]
    return Batch(
        input_ids=ids,
        attention_mask=mask,
        labels=labels,
        answer_tokens=sum(item.answer_tokens for item in encoded),
    )

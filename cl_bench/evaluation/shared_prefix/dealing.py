"""Which process runs which forward passes.

A pass on a trunk needs the passes that made the trunk, in the process that runs it. So passes on
one trunk stay together, as far as the work is then still even; a trunk whose passes are too many
for one process is computed by several. All processes deal the same, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cl_bench.evaluation.shared_prefix.packing import Pack, PassLimits, packs_of
from cl_bench.evaluation.shared_prefix.tree import build_forest

SHARES = 8
"""Blocks of work for each process, about: they are even to an eighth of its part."""
DECODED = 2
"""A decoded token is taken to cost so many tokens of a prompt: it has no others in its pass."""
LIKELY_LENGTH = 64
"""Tokens of an answer, unless its limit is lower."""


@dataclass(frozen=True)
class _Block:
    """Passes that stay together, and the trunk passes that they need."""

    passes: tuple[int, ...]
    trunks: tuple[int, ...]
    cost: float


def deal(packs: Sequence[Pack], world: int, per_leaf: float = 0.0) -> list[list[int]]:
    """For each process the indices of the passes that it runs, in order, trunks among them.

    `per_leaf`: what each sequence that ends costs beside its tokens, in tokens.
    """
    blocks = _blocks(packs, world, per_leaf)
    load = [0.0] * world
    given: list[set[int]] = [set() for _ in range(world)]
    for block in sorted(blocks, key=lambda block: -block.cost):

        def after(rank: int, block: _Block = block) -> float:
            new = [i for i in block.trunks if i not in given[rank]]
            return load[rank] + block.cost + sum(packs[i].tokens for i in new)

        rank = min(range(world), key=after)
        load[rank] = after(rank)
        given[rank] |= {*block.passes, *block.trunks}
    return [sorted(own) for own in given]


def _blocks(packs: Sequence[Pack], world: int, per_leaf: float) -> list[_Block]:
    needs = _needs(packs)
    costs = [pack.tokens + per_leaf * _leaves(pack) for pack in packs]
    ending = [i for i, pack in enumerate(packs) if not pack.trunk]
    most = sum(costs[i] for i in ending) / (world * SHARES)
    blocks: list[_Block] = []
    for i in ending:
        last = blocks[-1] if blocks else None
        joins = last is not None and needs[i] and needs[i] == last.trunks
        if last is not None and joins and last.cost + costs[i] <= most:
            blocks[-1] = _Block((*last.passes, i), last.trunks, last.cost + costs[i])
        else:
            blocks.append(_Block((i,), needs[i], costs[i]))
    return blocks


def _needs(packs: Sequence[Pack]) -> list[tuple[int, ...]]:
    """For each pass the trunk passes before it whose keys and values it reads."""
    found: list[tuple[int, ...]] = []
    stack: list[tuple[int, int]] = []
    for i, pack in enumerate(packs):
        while stack and stack[-1][1] > pack.past:
            stack.pop()
        found.append(tuple(index for index, _ in stack))
        if pack.trunk:
            stack.append((i, pack.past + pack.tokens))
    return found


def _leaves(pack: Pack) -> int:
    return sum(tree.leaves for row in pack.rows for tree in row)


def prompts_dealt(
    prompts: Sequence[Sequence[int]], longest: int, limits: PassLimits, world: int
) -> list[list[int]]:
    """For each process the prompts that it answers, each once; `longest`: tokens of an answer."""
    finer = replace(limits, leaves=max(1, min(limits.leaves, len(prompts) // (world * SHARES))))
    packs = list(packs_of(build_forest(prompts), finer))
    per_leaf = DECODED * min(longest, LIKELY_LENGTH)
    ends = [list(_ends(pack)) for pack in packs]
    # A prompt may end inside a trunk, which several processes compute: the first of them has it.
    left = set(range(len(prompts)))
    found = []
    for own in deal(packs, world, per_leaf):
        mine = [i for index in own for i in ends[index] if i in left]
        left -= set(mine)
        found.append(sorted(mine))
    return found


def _ends(pack: Pack) -> Iterator[int]:
    """Sequences whose last token a pass computes for the first time."""
    for row in pack.rows:
        for piece in (piece for tree in row for piece in tree.pieces if piece.first):
            yield from piece.segment.ends

"""How a prefix tree is cut into forward passes.

A *trunk* is a path from a root whose keys and values are kept while everything below it is
computed. A *tree* is a piece computed in one go on top of the trunk: its tokens stand in one row,
and a mask lets each see its ancestors only. A *pack* is one forward pass: trees in rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cl_bench.evaluation.shared_prefix.tree import Segment, preorder

Array = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class PassLimits:
    """What a forward pass may hold, in tokens. The answers do not depend on it."""

    batch: int
    """Tokens of a pass, padding included (a longer single sequence is still one pass)."""
    row: int
    """Tokens of a row that holds several trees: every query attends to the whole row."""
    leaves: int = 2**62
    """Sequences that may end in one pass."""
    trunk: int = 192
    """A prefix becomes a trunk when that saves so many tokens: an extra pass is not free."""


@dataclass(frozen=True)
class Piece:
    """A segment in a tree. Copies of one that no trunk holds are computed more than once."""

    segment: Segment
    first: bool
    """Whether no earlier pass has computed it."""


@dataclass(frozen=True)
class Tree:
    """Pieces that are computed together; a parent stands before its children."""

    pieces: tuple[Piece, ...]
    parents: tuple[int, ...]
    """Index of the piece above; -1: the trunk."""
    size: int

    @property
    def is_chain(self) -> bool:
        """Whether it is one sequence, so that causal attention needs no mask."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    @property
    def leaves(self) -> int:
        """Sequences that end in it."""
        return sum(len(piece.segment.ends) for piece in self.pieces if piece.first)


@dataclass(frozen=True)
class Pack:
    """One forward pass."""

    past: int
    """Tokens of the trunk to go on from; the cache is cut to them first."""
    rows: tuple[tuple[Tree, ...], ...]
    trunk: bool = False
    """Whether the pass extends the trunk (one row, one chain) instead of ending sequences."""

    @property
    def tokens(self) -> int:
        """Tokens that it computes, padding not counted."""
        return sum(tree.size for row in self.rows for tree in row)

    @property
    def stands_alone(self) -> bool:
        """Whether it neither reads the trunk nor adds to it."""
        return not self.trunk and self.past == 0


@dataclass
class _Node:
    """A segment that waits, with the segments above it that no trunk holds."""

    segment: Segment
    above: tuple[Piece, ...]


@dataclass
class _Level:
    """What is computed on top of one trunk."""

    past: int
    trees: list[Tree] = field(default_factory=list)
    trunks: list[tuple[Piece, ...]] = field(default_factory=list)


def packs_of(roots: Sequence[Segment], limits: PassLimits) -> Iterator[Pack]:
    """Forward passes that compute every segment, trunks before what stands on them."""
    stack = [_level(0, [_Node(root, ()) for root in roots], limits)]
    yield from _packs(stack[-1], limits)
    while stack:
        level = stack[-1]
        if not level.trunks:
            stack.pop()
            continue
        path = level.trunks.pop(0)
        yield Pack(level.past, ((_chain(path),),), trunk=True)
        end = path[-1].segment
        stack.append(_level(end.end, [_Node(child, ()) for child in end.children], limits))
        yield from _packs(stack[-1], limits)


def _level(past: int, nodes: Sequence[_Node], limits: PassLimits) -> _Level:
    """Sort what stands on a trunk into trees and further trunks."""
    level = _Level(past)
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        segment, above = node.segment, node.above
        prefix = sum(len(piece.segment.tokens) for piece in above)
        size, longest = prefix + segment.size, segment.deepest - past
        if not segment.children or (
            size <= max(limits.row, 1.5 * longest) and segment.leaves <= limits.leaves
        ):
            level.trees.append(_tree(above, segment))
            continue
        passes = max(-(-size // limits.row), -(-segment.leaves // limits.leaves))
        path = (*above, Piece(segment, True))
        if (prefix + len(segment.tokens)) * (passes - 1) >= limits.trunk:
            level.trunks.append(path)
            continue
        again = tuple(Piece(piece.segment, False) for piece in path)
        for i, child in reversed(list(enumerate(segment.children))):
            stack.append(_Node(child, path if i == 0 else again))
    # Long ones first, so that sequences of like length are decoded side by side.
    level.trunks.sort(key=lambda path: -path[-1].segment.deepest)
    return level


def _chain(path: tuple[Piece, ...]) -> Tree:
    size = sum(len(piece.segment.tokens) for piece in path)
    return Tree(path, tuple(range(-1, len(path) - 1)), size)


def _tree(above: tuple[Piece, ...], segment: Segment) -> Tree:
    top = _chain(above)
    pieces, parents = list(above), list(top.parents)
    # The root of the subtree hangs below the last piece above it, or on the trunk.
    place = {segment.parent: len(above) - 1}
    for found in preorder([segment]):
        parents.append(place[found.parent])
        place[found] = len(pieces)
        pieces.append(Piece(found, True))
    return Tree(tuple(pieces), tuple(parents), top.size + segment.size)


def _packs(level: _Level, limits: PassLimits) -> Iterator[Pack]:
    """Fill rows with trees, longest first, and passes with rows."""
    waiting = sorted(level.trees, key=lambda tree: -tree.size)
    while waiting:
        rows, waiting = _fill(waiting, level.past, limits)
        yield Pack(level.past, tuple(tuple(row) for row in rows if row))


def _fill(
    waiting: list[Tree], past: int, limits: PassLimits
) -> tuple[list[list[Tree]], list[Tree]]:
    """Rows of one pass, each tree in the first row with room for it; and the trees left over."""
    longest, smallest = waiting[0].size, waiting[-1].size
    # On a trunk there is one row, since further rows would need copies of the trunk.
    count = 1 if past else max(1, limits.batch // longest)
    # Lone sequences need no mask, and sorted by length they need hardly any padding.
    alone = past == 0 and all(tree.is_chain for tree in waiting[:count])
    rows: list[list[Tree]] = [[] for _ in range(count)]
    room = [max(longest, limits.row) if past else longest] * count
    leaves, rest = limits.leaves, list[Tree]()
    for i, tree in enumerate(waiting):
        if leaves <= 0 or max(room) < smallest:
            return rows, rest + waiting[i:]
        row = next((i for i, free in enumerate(room) if tree.size <= free), None)
        if row is None or (tree.leaves > leaves and i > 0):
            rest.append(tree)
            continue
        rows[row].append(tree)
        room[row] = 0 if alone else room[row] - tree.size
        leaves -= tree.leaves
    return rows, rest


@dataclass(frozen=True)
class Placed:
    """Where a piece stands in a pass."""

    segment: Segment
    first: bool
    row: int
    columns: Array
    """Columns of its tokens in the row, the trunk not counted."""
    path: tuple[int, ...]
    """Indices of the placed pieces from the trunk to this one, itself included."""


@dataclass(frozen=True)
class PackLayout:
    """A pass as arrays, B rows of T tokens on a trunk of P."""

    ids: Array
    """[B, T], 0 where there is padding."""
    positions: Array
    """[B, T], position of each token in its sequence."""
    mask: Mask | None
    """[B, T, P + T], True where a query may look; None: plain causal attention, P = 0, or in one
    row without padding what the paths of the pieces say."""
    placed: tuple[Placed, ...]


def lay_out(pack: Pack) -> PackLayout:
    """Arrays of a pass, padded on the right."""
    width = max(sum(tree.size for tree in row) for row in pack.rows)
    ids = np.zeros((len(pack.rows), width), dtype=np.int64)
    positions = np.tile(np.arange(pack.past, pack.past + width), (len(pack.rows), 1))
    causal = pack.past == 0 and all(len(row) == 1 and row[0].is_chain for row in pack.rows)
    look = None if causal else np.zeros((*ids.shape, width), dtype=np.bool_)
    placed: list[Placed] = []
    for row, trees in enumerate(pack.rows):
        column = 0
        for tree in trees:
            base = len(placed)
            for piece, parent in zip(tree.pieces, tree.parents, strict=True):
                segment = piece.segment
                end = column + len(segment.tokens)
                ids[row, column:end] = segment.tokens
                positions[row, column:end] = np.arange(segment.start, segment.end)
                above = placed[base + parent] if parent >= 0 else None
                if look is not None:
                    _look(look[row], column, end, above)
                path = (*(above.path if above else ()), len(placed))
                columns = np.arange(column, end)
                placed.append(Placed(segment, piece.first, row, columns, path))
                column = end
        if look is not None:
            # Padding sees itself: a row of nothing but -inf would be NaN.
            np.fill_diagonal(look[row, column:, column:], True)
    mask = None
    if look is not None:
        mask = np.concatenate([np.ones((*ids.shape, pack.past), dtype=np.bool_), look], axis=2)
    return PackLayout(ids, positions, mask, tuple(placed))


def in_one_row(pack: Pack) -> list[Placed]:
    """Pieces of a pass side by side in one row without padding or mask, whatever rows it has."""
    placed: list[Placed] = []
    column = 0
    for tree in (tree for row in pack.rows for tree in row):
        base = len(placed)
        for piece, parent in zip(tree.pieces, tree.parents, strict=True):
            above = placed[base + parent].path if parent >= 0 else ()
            columns = np.arange(column, column + len(piece.segment.tokens))
            path = (*above, len(placed))
            placed.append(Placed(piece.segment, piece.first, 0, columns, path))
            column += len(columns)
    return placed


def lay_out_in_one_row(pack: Pack) -> PackLayout:
    """Arrays of a pass as `in_one_row` has it."""
    placed = in_one_row(pack)
    segments = [place.segment for place in placed]
    ids = np.concatenate([segment.tokens for segment in segments])
    positions = np.concatenate([np.arange(each.start, each.end) for each in segments])
    return PackLayout(ids[None], positions[None], None, tuple(placed))


def _look(look: Mask, start: int, end: int, above: Placed | None) -> None:
    """Let the tokens [start, end) of a row see what their parent sees, and each other causally."""
    if above is not None:
        look[start:end, :start] = look[above.columns[-1], :start]
    look[start:end, start:end] = np.tri(end - start, dtype=np.bool_)

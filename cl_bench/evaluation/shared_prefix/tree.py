"""Token sequences as a radix tree: what several of them share stands in it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]


@dataclass(eq=False)
class Segment:
    """An edge of the tree: tokens that follow each other without a branch."""

    tokens: Tokens
    """[n], n >= 1."""
    start: int
    """Position of the first token in every sequence that passes here."""
    parent: Segment | None
    children: list[Segment] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """Which sequences end with this segment's last token (several if they are equal)."""
    size: int = 0
    """Tokens of the subtree, this segment's included."""
    deepest: int = 0
    """Length of the longest sequence that passes here."""
    leaves: int = 0
    """Sequences that end in the subtree."""

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)


def build_forest(sequences: Sequence[Sequence[int]]) -> list[Segment]:
    """The roots of the tree of `sequences` (non-empty, token ids below 2**32).

    Two roots differ in their first token. `ends` holds indices into `sequences`. The order of
    roots and children is that of their token ids, whatever the order of `sequences`.
    """
    # Big-endian bytes compare as the token ids do, so sorting puts shared prefixes side by side.
    keys = [np.asarray(sequence, dtype=">u4").tobytes() for sequence in sequences]
    roots: list[Segment] = []
    path: list[Segment] = []
    previous = b""
    for index in sorted(range(len(keys)), key=keys.__getitem__):
        key = keys[index]
        if key == previous and path:
            path[-1].ends.append(index)
            continue
        shared = _common(previous, key)
        while path and path[-1].start >= shared:
            path.pop()
        if path and path[-1].end > shared:
            _split(path[-1], shared)
        tokens = np.frombuffer(key, dtype=">u4")[shared:].astype(np.int64)
        parent = path[-1] if path else None
        segment = Segment(tokens, shared, parent, ends=[index])
        (parent.children if parent else roots).append(segment)
        path.append(segment)
        previous = key
    _measure(roots)
    return roots


def _common(left: bytes, right: bytes) -> int:
    """Tokens that two keys share at their beginning."""
    n = min(len(left), len(right)) // 4
    a = np.frombuffer(left, dtype=np.uint32, count=n)
    b = np.frombuffer(right, dtype=np.uint32, count=n)
    different = np.flatnonzero(a != b)
    return int(different[0]) if len(different) else n


def _split(segment: Segment, position: int) -> None:
    """Make `segment` end at `position`; a new child takes over the rest."""
    cut = position - segment.start
    lower = Segment(segment.tokens[cut:], position, segment, segment.children, segment.ends)
    for child in lower.children:
        child.parent = lower
    segment.tokens, segment.children, segment.ends = segment.tokens[:cut], [lower], []


def preorder(roots: Sequence[Segment]) -> list[Segment]:
    """Every segment, parents before children, children in their order."""
    found: list[Segment] = []
    stack = list(reversed(roots))
    while stack:
        segment = stack.pop()
        found.append(segment)
        stack.extend(reversed(segment.children))
    return found


def _measure(roots: Sequence[Segment]) -> None:
    for segment in reversed(preorder(roots)):
        children = segment.children
        segment.size = len(segment.tokens) + sum(child.size for child in children)
        segment.deepest = max((child.deepest for child in children), default=segment.end)
        segment.leaves = len(segment.ends) + sum(child.leaves for child in children)

"""The tree holds every sequence once, and every plan computes every token before its children."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.evaluation.shared_prefix.packing import PassLimits, lay_out, packs_of
from cl_bench.evaluation.shared_prefix.tree import build_forest, preorder

SEQUENCES = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), max_size=12)
LIMITS = st.builds(
    PassLimits,
    batch=st.integers(1, 40),
    row=st.integers(1, 20),
    leaves=st.integers(1, 5),
    trunk=st.integers(0, 12),
)


def path_tokens(segment):
    tokens = list(segment.tokens)
    while segment.parent is not None:
        segment = segment.parent
        tokens = [*segment.tokens, *tokens]
    return tokens


@given(SEQUENCES)
def test_every_sequence_is_a_path_and_no_prefix_stands_twice(sequences):
    segments = preorder(build_forest(sequences))
    found = {i: path_tokens(segment) for segment in segments for i in segment.ends}
    assert found == dict(enumerate(sequences))
    distinct = {tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)}
    assert sum(len(segment.tokens) for segment in segments) == len(distinct)


@given(SEQUENCES)
def test_sizes_depths_and_leaves_are_those_of_the_subtree(sequences):
    for segment in preorder(build_forest(sequences)):
        below = preorder([segment])
        assert segment.size == sum(len(each.tokens) for each in below)
        assert segment.deepest == max(each.end for each in below)
        assert segment.leaves == sum(len(each.ends) for each in below)
        assert all(child.parent is segment for child in segment.children)


def run(sequences, limits):
    """What each pass computes, with the trunk as the passes leave it: (pack, layout, trunk)."""
    trunk: list[int] = []
    for pack in packs_of(build_forest(sequences), limits):
        layout = lay_out(pack)
        del trunk[pack.past :]
        yield pack, layout, list(trunk)
        if pack.trunk:
            trunk += layout.ids[0].tolist()


@given(SEQUENCES, LIMITS)
def test_every_token_sees_exactly_the_tokens_before_it(sequences, limits):
    """The mask, the positions and the trunk spell each placed segment's whole prefix."""
    for pack, layout, trunk in run(sequences, limits):
        assert len(trunk) == pack.past
        width = layout.ids.shape[1]
        for placed in layout.placed:
            wanted = path_tokens(placed.segment)
            for column, position in zip(
                placed.columns, range(placed.segment.start, placed.segment.end), strict=True
            ):
                if layout.mask is None:
                    seen = np.arange(width) <= column
                else:
                    assert layout.mask[placed.row, column, : pack.past].all()
                    seen = layout.mask[placed.row, column, pack.past :]
                assert trunk + layout.ids[placed.row, seen].tolist() == wanted[: position + 1]
                assert layout.positions[placed.row, column] == position


@given(SEQUENCES, LIMITS)
def test_every_sequence_ends_in_one_pass_with_its_keys_at_hand(sequences, limits):
    """`path` names the columns that hold a sequence's keys, and each is computed first once."""
    ended: list[int] = []
    first: list[int] = []
    for pack, layout, trunk in run(sequences, limits):
        for placed in layout.placed:
            columns = np.concatenate([layout.placed[i].columns for i in placed.path])
            spelled = trunk + layout.ids[placed.row, columns].tolist()
            assert spelled == path_tokens(placed.segment)
            if placed.first:
                first.append(id(placed.segment))
                ended += placed.segment.ends
        at_most = max(limits.leaves, max((len(p.segment.ends) for p in layout.placed), default=0))
        endings = sum(len(p.segment.ends) for p in layout.placed if p.first)
        assert endings <= at_most or len([t for row in pack.rows for t in row]) == 1
    assert sorted(ended) == list(range(len(sequences)))
    assert len(first) == len(set(first))


@given(SEQUENCES, LIMITS)
def test_passes_keep_to_the_budget_unless_one_tree_is_larger(sequences, limits):
    for pack, layout, _ in run(sequences, limits):
        trees = [tree for row in pack.rows for tree in row]
        if len(trees) > 1:
            largest = max(limits.row, *(tree.size for tree in trees))
            assert layout.ids.size <= max(limits.batch, largest)


def test_a_shared_header_is_computed_once():
    header = list(range(100, 400))
    sequences = [[*header, i, i + 1, i + 2] for i in range(50)]
    computed = sum(lay.ids.size for _, lay, _ in run(sequences, PassLimits(batch=64, row=32)))
    assert computed <= 300 + 50 * 3 + 32


def test_a_chain_of_prefixes_needs_no_recursion():
    sequences = [list(range(n)) for n in range(1, 3000)]
    segments = preorder(build_forest(sequences))
    assert len(segments) == 2999
    assert all(child.start == parent.end for parent, child in pairwise(segments))
    packs = list(packs_of(build_forest(sequences[:300]), PassLimits(batch=32, row=16)))
    assert sum(pack.rows[0][0].size for pack in packs) >= 300

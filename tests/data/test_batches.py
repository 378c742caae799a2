"""Order, micro-batches, shares of processes, padding."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.data.batches import collate, epoch_batches, for_process, micro_batches
from cl_bench.data.tokens import Encoded

LENGTHS = st.lists(st.integers(1, 200), max_size=60)
KNOWN_ORDER = [[1, 0, 3], [2, 4, 5], [7, 6]]
PLACE = st.tuples(st.integers(0, 5), st.integers(1, 8), st.integers(0, 7))


def ordered(lengths: list[int], size: int, place: tuple[int, int, int]) -> list[list[int]]:
    seed, stage, epoch = place
    return epoch_batches(lengths, batch_size=size, seed=seed, stage=stage, epoch=epoch)


@given(LENGTHS, st.integers(1, 20), PLACE)
def test_batches_hold_every_example_once_and_are_sorted_inside(lengths, size, place):
    batches = ordered(lengths, size, place)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(0 < len(batch) <= size for batch in batches)
    for batch in batches:
        assert [lengths[i] for i in batch] == sorted(lengths[i] for i in batch)


@given(LENGTHS, st.integers(1, 20), PLACE)
def test_members_of_a_batch_do_not_depend_on_lengths_or_global_random_state(lengths, size, place):
    torch.manual_seed(len(lengths))
    first = ordered(lengths, size, place)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    other = ordered([1] * len(lengths), size, place)
    assert [set(batch) for batch in first] == [set(batch) for batch in other]
    torch.set_rng_state(state)
    ordered(lengths, size, place)
    assert torch.equal(torch.get_rng_state(), state)


def test_order_changes_with_seed_stage_and_epoch_alone():
    lengths = [5] * 50
    places = [(s, t, e) for s in range(3) for t in range(1, 4) for e in range(3)]
    orders = {place: ordered(lengths, 8, place) for place in places}
    assert len({str(order) for order in orders.values()}) == len(places)
    assert all(ordered(lengths, 8, place) == orders[place] for place in places)


def test_equal_lengths_stay_shuffled():
    batch = ordered([7] * 30, 30, (0, 1, 0))[0]
    assert batch != sorted(batch)


def test_the_order_of_one_epoch_is_known():
    """Changing it silently would change every run."""
    assert ordered([1] * 8, 3, (42, 1, 0)) == KNOWN_ORDER


@given(LENGTHS, st.integers(1, 9))
def test_micro_batches_of_a_number_cut_in_order(lengths, size):
    batch = list(range(len(lengths)))
    cut = micro_batches(batch, lengths, size, token_budget=1)
    assert [i for part in cut for i in part] == batch
    assert all(len(part) == size for part in cut[:-1])


@given(LENGTHS, st.integers(1, 600))
def test_auto_micro_batches_fill_the_budget_and_no_more(lengths, budget):
    batch = sorted(range(len(lengths)), key=lambda i: lengths[i])
    cut = micro_batches(batch, lengths, "auto", budget)
    assert [i for part in cut for i in part] == batch

    def padded(part: list[int]) -> int:
        return len(part) * max(lengths[i] for i in part)

    assert all(padded(part) <= budget or len(part) == 1 for part in cut)
    for part, following in itertools.pairwise(cut):
        assert padded([*part, following[0]]) > budget


@given(LENGTHS, st.integers(1, 5), st.integers(1, 6))
def test_the_processes_together_see_every_micro_batch_once(lengths, size, world):
    cut = micro_batches(list(range(len(lengths))), lengths, size, 1)
    shares = [for_process(cut, rank, world) for rank in range(world)]
    assert sorted(part for share in shares for part in share) == sorted(cut)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda: epoch_batches([1], batch_size=0, seed=0, stage=1, epoch=0),
        lambda: micro_batches([0], [1], 0, 10),
        lambda: for_process([[0]], 2, 2),
        lambda: for_process([[0]], -1, 2),
    ],
)
def test_numbers_out_of_range_are_refused(call):
    with pytest.raises(ValueError, match="must be"):
        call()


ENCODED = st.lists(
    st.integers(1, 12).flatmap(
        lambda n: st.tuples(st.lists(st.integers(3, 90), min_size=n, max_size=n), st.integers(0, n))
    ),
    min_size=1,
    max_size=6,
)


@given(ENCODED, st.sampled_from(["left", "right"]), st.sampled_from([1, 8]))
def test_collate_pads_and_labels_answers_only(drawn, side, multiple_of):
    encoded = [Encoded(ids, prompt, i, 0, 0) for i, (ids, prompt) in enumerate(drawn)]
    batch = collate(encoded, pad_id=1, side=side, multiple_of=multiple_of)
    rows, width = batch["input_ids"].shape
    longest = max(len(item) for item in encoded)
    assert rows == len(encoded)
    assert longest <= width < longest + multiple_of
    assert width % multiple_of == 0
    for row, (ids, prompt) in enumerate(drawn):
        pads = width - len(ids)
        mask = [0] * pads + [1] * len(ids) if side == "left" else [1] * len(ids) + [0] * pads
        labels = [-100] * prompt + ids[prompt:]
        fill = [-100] * pads
        assert batch["attention_mask"][row].tolist() == mask
        assert batch["labels"][row].tolist() == (fill + labels if side == "left" else labels + fill)
        seen = [i for i, m in zip(batch["input_ids"][row].tolist(), mask, strict=True) if m]
        assert seen == ids
    for name in ("input_ids", "attention_mask", "labels"):
        assert batch[name].dtype == torch.int64
    trained = sum(max(0, len(ids) - max(prompt, 1)) for ids, prompt in drawn)
    assert batch["answer_tokens"] == trained


def test_lengths_of_unequal_groups_never_stand_together() -> None:
    def group(length: int) -> int:
        return 0 if length <= 4 else length

    lengths = [2, 4, 4, 5, 5, 7]
    cut = micro_batches(range(6), lengths, 4, 100, group)
    assert cut == [[0, 1, 2], [3, 4], [5]]
    assert micro_batches(range(6), lengths, "auto", 9, group) == [[0, 1], [2], [3], [4], [5]]

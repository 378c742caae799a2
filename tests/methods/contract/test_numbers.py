"""Numbers of examples, by which methods know them in batches."""

from __future__ import annotations

import torch

from cl_bench.data.examples import Example
from tests.helpers.reference import encode, make_stage
from tests.methods.contract.helpers import NEW, OLD, TRAIN, model64


def test_numbers_name_examples_through_a_stage() -> None:
    """Own from 0 in order, then earlier ones, then new ones as they come; in every batch."""
    stage, _ = make_stage(model64(), NEW, TRAIN, 2, [("old", OLD)])
    made = Example("made ", "up", -1, "new", "generate")
    assert [stage.number(example) for example in NEW] == list(range(len(NEW)))
    assert stage.number(OLD[2]) == len(NEW) + 2
    seen = torch.cat([batch["example"] for batch in stage.batches([made, OLD[0], NEW[5]])])
    assert sorted(seen.tolist()) == [5, len(NEW), len(NEW) + len(OLD)]
    assert stage.example(int(max(seen))) is made and stage.example(5) is NEW[5]
    for batch in stage.batches(NEW):
        for ids, number in zip(batch["input_ids"], batch["example"], strict=True):
            (item,) = encode([stage.example(int(number))], TRAIN)
            assert ids[: len(item)].tolist() == item.input_ids

"""Splits of generated documents: seeded, distinct, the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

TRAIN_DOCUMENTS = 512
TEST_DOCUMENTS = 64


def prompt_splits(name: str, pairs: Iterable[tuple[str, str]]) -> dict[str, Dataset]:
    """Train and test splits (columns prompt, answer) of (prompt, answer) pairs.

    The pairs are shuffled by a generator seeded with `name`; the first 64 are the test split, the
    next 512 (or what there is) the train split, so no prompt is in both. Raises ValueError when
    a prompt comes twice or when fewer than 128 pairs are left to train on.
    """
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
    if len({row["prompt"] for row in rows}) < len(rows):
        raise ValueError(f"{name}: a prompt was generated twice")
    if len(rows) < TEST_DOCUMENTS + 128:
        raise ValueError(f"{name}: only {len(rows)} prompts were generated")
    random.Random(name).shuffle(rows)
    test, train = rows[:TEST_DOCUMENTS], rows[TEST_DOCUMENTS:][:TRAIN_DOCUMENTS]
    return {"train": _dataset(train), "test": _dataset(test)}


def item_splits(
    name: str, train: Iterable[tuple[str, str]], test: Iterable[tuple[str, str]]
) -> dict[str, Dataset]:
    """The same from pairs that are apart already: the test asks about things not trained on."""
    sides = {}
    for split, pairs in (("train", train), ("test", test)):
        rows = [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
        random.Random(f"{name} {split}").shuffle(rows)
        sides[split] = rows
    if {row["prompt"] for row in sides["train"]} & {row["prompt"] for row in sides["test"]}:
        raise ValueError(f"{name}: a prompt is in both splits")
    return {
        "train": _dataset(sides["train"][:TRAIN_DOCUMENTS]),
        "test": _dataset(sides["test"][:TEST_DOCUMENTS]),
    }


def test_split(name: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, Dataset]:
    """A test split alone, at most 64 of the shuffled rows."""
    shuffled = [dict(row) for row in rows]
    random.Random(name).shuffle(shuffled)
    return {"test": _dataset(shuffled[:TEST_DOCUMENTS])}


def _dataset(rows: list[dict[str, Any]]) -> Dataset:
    from datasets import Dataset

    return Dataset.from_list(rows)

"""What the YAMLs of GLUE and of programs call: splits to train on, from `data_root` or the Hub.

Rows have the form of the Hub's, so that lm-evaluation-harness's templates fit both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator

from cl_bench.data.hub import dataset_of, split_of_hub
from cl_bench.data.rows import Binary, Filled, RowModel, Text, read_rows
from cl_bench.data.sources import resolve_data_root
from cl_bench.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

Document = dict[str, Any]
INFERENCES = ("entailment", "neutral", "contradiction")
"""MNLI's labels in the order of the Hub's numbers."""
_TWO_SENTENCES = re.compile(r"sentence 1: (.*)\nsentence 2: (.*)", re.DOTALL)


def _two_sentences(text: str) -> str:
    if not _TWO_SENTENCES.fullmatch(text):
        raise ValueError("not 'sentence 1: ...', a new line, 'sentence 2: ...'")
    return text


class Sentence(RowModel):
    """`glue/sst2/*.jsonl` (0 negative, 1 positive), `glue/cola/*.jsonl` (1 acceptable)."""

    sentence: Filled
    label: Binary


class Pair(RowModel):
    """`glue/mrpc/*.jsonl` (1 paraphrase)."""

    sentence1: Filled
    sentence2: Filled
    label: Binary


class Inference(RowModel):
    """`glue/mnli/*.jsonl`: both sentences in one text, as the long sequences of O-LoRA have it."""

    sentence: Annotated[Text, AfterValidator(_two_sentences)]
    label: Literal["entailment", "neutral", "contradiction"]


class Program(RowModel):
    """`code/<set>/train.jsonl`."""

    instruction: Filled
    response: Filled


def _of_inference(row: Document) -> Document:
    found = _TWO_SENTENCES.fullmatch(row["sentence"])
    assert found is not None  # `_two_sentences`
    return {
        "premise": found[1],
        "hypothesis": found[2],
        "label": INFERENCES.index(row["label"]),
    }


_GLUE: dict[str, tuple[type[RowModel], Callable[[Document], Document], tuple[str, ...]]] = {
    "sst2": (Sentence, dict, ("sentence", "label")),
    "cola": (Sentence, dict, ("sentence", "label")),
    "mrpc": (Pair, dict, ("sentence1", "sentence2", "label")),
    "mnli": (Inference, _of_inference, ("premise", "hypothesis", "label")),
}


def glue(
    *, task: str, hub: Mapping[str, Any], test: str, data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """`train` and `test` of a task: `<data_root>/glue/<task>/{train,test}.jsonl`, or the Hub.

    `test` names the Hub's split with labels (GLUE's own test set has none).
    Raises UserError with the faults of both files, and for a folder that holds one of them only.
    """
    model, convert, columns = _GLUE[task]
    folder = resolve_data_root(data_root) / "glue" / task
    if folder.is_dir():
        return _splits(folder, ("train", "test"), model, convert)
    remedy = f"name the folder that holds glue/{task}/ with `-o data_root=...`"
    return {
        split: split_of_hub({**hub, "split": theirs}, columns, folder / f"{split}.jsonl", remedy)
        for split, theirs in (("train", "train"), ("test", test))
    }


def programs(
    *, folder: str, hub: Mapping[str, Any], data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """`train` of `<data_root>/code/<folder>/train.jsonl`, or of the Hub.

    Columns instruction and response. Raises UserError with every fault of the file.
    """
    here = resolve_data_root(data_root) / "code" / folder
    if here.is_dir():
        return _splits(here, ("train",), Program, dict)
    columns = tuple(Program.model_fields)
    remedy = f"name the folder that holds code/{folder}/ with `-o data_root=...`"
    where = {**hub, "split": "train"}
    return {"train": split_of_hub(where, columns, here / "train.jsonl", remedy)}


def _splits(
    folder: Path,
    splits: tuple[str, ...],
    model: type[RowModel],
    convert: Callable[[Document], Document],
) -> dict[str, Dataset]:
    found: dict[str, Dataset] = {}
    faults: list[str] = []
    for split in splits:
        path = folder / f"{split}.jsonl"
        try:
            rows = [convert(row.model_dump()) for row in read_rows(path, model)]
        except UserError as error:
            faults += error.faults
            continue
        if rows:
            found[split] = dataset_of(rows)
        else:
            faults.append(f"{path}: has no rows")
    if faults:
        raise UserError(faults)
    return found

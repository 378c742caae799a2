"""What the YAMLs of General call: a task's documents, from `data_root` or from the Hub.

The rows have the form of the Hub's, so that lm-evaluation-harness's packaged templates fit both.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.data.hub import dataset_of, general_split, no_rows
from cl_bench.data.rows import (
    BbhExamples,
    BbhRow,
    BoolqRow,
    Gsm8kRow,
    HumanevalRow,
    IfevalRow,
    MmluRow,
    PiqaRow,
    RowModel,
    TydiqaRow,
    read_rows,
)
from cl_bench.data.sources import resolve_data_root
from cl_bench.errors import Absent, UserError

if TYPE_CHECKING:
    from datasets import Dataset

Document = dict[str, Any]
LETTERS = "ABCD"
SUBJECT = ("question", "subject", "choices", "answer")
PROBLEM = ("input", "target")
PASSAGE = ("id", "title", "context", "question", "answers")
SOLUTION = ("question", "answer")
AFTER_NOTICE = "-----\n"
"""What stands between the canary notice of a file of worked examples and the examples."""


def mmlu(
    *, subject: str, hub: dict[str, Any], data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """A subject's `dev` (the five shots, in order) and `test` questions.

    Columns question, subject, choices (four strings), answer (index of the right one).
    """

    def convert(row: Document) -> Document:
        choices = [row[letter] for letter in LETTERS]
        answer = LETTERS.index(row["answer"])
        return {"question": row["question"], "subject": subject, "choices": choices} | {
            "answer": answer
        }

    key = ("subject", subject)
    found = _splits("general/mmlu", ("test", "dev"), MmluRow, key, convert, data_root)
    return _or_hub(found, "general/mmlu", MmluRow, SUBJECT, {**hub, "name": subject}, data_root)


def bbh(
    *, problem: str, hub: dict[str, Any], data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """A sub-task's `test` problems, columns input and target; its shots are in lm-eval's YAML."""
    key = ("task", problem)
    found = {"test": _member("general/bbh", "test", BbhRow, key, dict, data_root)}
    return _or_hub(found, "general/bbh", BbhRow, PROBLEM, {**hub, "name": problem}, data_root)


def bbh_with_examples(
    *, problem: str, hub: dict[str, Any], data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """As `bbh`, with the column `examples`: the three worked examples as their authors wrote them.

    Raises UserError without `<data_root>/general/bbh/dev.jsonl`, since the Hub has only problems.
    """
    path = resolve_data_root(data_root) / "general/bbh/dev.jsonl"
    if not path.is_file():
        raise UserError(
            Absent(
                f"{path}: not found; BBH's worked examples stand there and are not on the Hub: get "
                "them with `cl-bench data get general` or name their folder with `-o data_root=...`"
            )
        )
    key = ("task", problem)
    rows = _member("general/bbh", "dev", BbhExamples, key, dict, data_root) or []
    examples = rows[0]["cot_prompt"].partition(AFTER_NOTICE)[2].strip() if rows else ""
    if not examples:
        raise UserError(f"{path}: no examples of '{problem}' after a line of dashes")
    (test,) = bbh(problem=problem, hub=hub, data_root=data_root).values()
    return {"test": test.add_column("examples", [examples] * len(test))}


def tydiqa(
    *, language: str, hub: dict[str, Any], data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """TyDiQA-GoldP's `validation` questions of one language, which its ids begin with.

    Columns id, title, context, question, answers (every accepted answer's text), as lm-eval's
    `process_docs` leaves them.
    """

    def convert(row: Document) -> Document:
        return {**row, "answers": [answer["text"] for answer in row["answers"]]}

    key = ("language", language)
    rows = _member("general/tydiqa", "test", TydiqaRow, key, convert, data_root)
    found = _or_hub({"validation": rows}, "general/tydiqa", TydiqaRow, PASSAGE, hub, data_root)
    if rows is None:
        ours = found["validation"].filter(lambda doc: doc["id"].startswith(f"{language}-"))
        texts = ours.map(lambda doc: {"answers": doc["answers"]["text"]})
        return {"validation": texts}
    return found


def gsm8k(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """GSM8K's `train` (for the shots) and `test` problems, columns question and answer."""
    found = _splits("general/gsm8k", ("train", "test"), Gsm8kRow, None, dict, data_root)
    return _or_hub(found, "general/gsm8k", Gsm8kRow, SOLUTION, hub, data_root)


def piqa(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """PIQA's labelled validation set, columns goal, sol1, sol2, label (0 or 1)."""
    columns = tuple(PiqaRow.model_fields)
    return {"test": general_split("general/piqa", PiqaRow, hub, columns, data_root=data_root)}


def boolq(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """BoolQ's labelled validation set, columns question, passage, label (0 no, 1 yes)."""
    documents = general_split(
        "general/boolq",
        BoolqRow,
        hub,
        tuple(BoolqRow.model_fields),
        data_root=data_root,
        convert=lambda row: {**row, "label": int(row["label"] == "true")},
    )
    return {"test": documents}


def humaneval(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """HumanEval's problems in `<data_root>/code/humaneval/test.jsonl`, with the checks of each."""
    where, columns = {**hub, "split": "test"}, tuple(HumanevalRow.model_fields)
    found = general_split("code/humaneval", HumanevalRow, where, columns, data_root=data_root)
    return {"test": found}


def ifeval(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """IFEval's prompts with their instructions; the hub calls its only split `train`."""
    where, columns = {**hub, "split": "train"}, ("key", "prompt", "instruction_id_list", "kwargs")

    def convert(row: Document) -> Document:
        return {"kwargs": row.pop("options"), **row}

    found = general_split(
        "general/ifeval", IfevalRow, where, columns, data_root=data_root, convert=convert
    )
    return {"test": found}


def _splits(
    folder: str,
    splits: Sequence[str],
    model: type[RowModel],
    key: tuple[str, str] | None,
    convert: Callable[[Document], Document],
    data_root: str | None,
) -> dict[str, list[Document] | None]:
    """`_member` of every split; UserError has the faults of all their files."""
    found: dict[str, list[Document] | None] = {}
    faults: list[str] = []
    for split in splits:
        try:
            found[split] = _member(folder, split, model, key, convert, data_root)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return found


def _member(
    folder: str,
    split: str,
    model: type[RowModel],
    key: tuple[str, str] | None,
    convert: Callable[[Document], Document],
    data_root: str | None,
) -> list[Document] | None:
    """Rows of one member in `<data_root>/<folder>/<split>.jsonl`; None without that folder.

    `key` is (the column that tells members apart, this member); the column is left out.
    """
    path = resolve_data_root(data_root) / folder / f"{split}.jsonl"
    if not (path.parent / "test.jsonl").is_file():
        return None
    if not path.is_file():
        raise UserError(f"{path}: not found, but test.jsonl is there: the folder is incomplete")
    column, member = key or ("", "")
    groups = _grouped(path, path.stat().st_mtime_ns, column, model)
    if not groups:
        raise UserError(no_rows(path))
    rows = groups.get(member)
    if not rows:
        raise UserError(f"{path}: no row has {column} '{member}'")
    return [convert({name: row[name] for name in row if name != column}) for row in rows]


@functools.lru_cache(maxsize=8)
def _grouped(
    path: Path, _modified: int, column: str, model: type[RowModel]
) -> Mapping[str, list[Document]]:
    """Rows by the value of a column; a file is read once, not once a member."""
    groups: dict[str, list[Document]] = defaultdict(list)
    for row in read_rows(path, model):
        values = row.model_dump()
        groups[values[column] if column else ""].append(values)
    return groups


def _or_hub(
    found: Mapping[str, list[Document] | None],
    folder: str,
    model: type[RowModel],
    columns: Sequence[str],
    hub: dict[str, Any],
    data_root: str | None,
) -> dict[str, Dataset]:
    """Datasets of the rows that were found, else the Hub's splits of the same names."""
    return {
        split: general_split(folder, model, {**hub, "split": split}, columns, data_root=data_root)
        if rows is None
        else dataset_of(rows)
        for split, rows in found.items()
    }

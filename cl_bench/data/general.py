"""What the YAMLs of General call: a task's documents, from `data_root` or from the Hub.

The rows have the form of the Hub's, so that lm-evaluation-harness's packaged templates fit both.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.data.hub import general_split, no_rows
from cl_bench.data.sources import (
    BINARY,
    TEXT,
    TRUE_FALSE,
    Field,
    Row,
    read_jsonl,
    resolve_data_root,
)
from cl_bench.errors import Absent, UserError

if TYPE_CHECKING:
    from datasets import Dataset

LETTERS = "ABCD"
LETTER = Field(lambda value: value in tuple(LETTERS), "one of the letters A, B, C, D")
SUBJECT = {"question": TEXT, "subject": TEXT, "choices": TEXT, "answer": TEXT}
PROBLEM = {"input": TEXT, "target": TEXT}
PASSAGE = {"id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT, "answers": TEXT}
SOLUTION = {"question": TEXT, "answer": TEXT}
AFTER_NOTICE = "-----\n"
"""What stands between the canary notice of a file of worked examples and the examples."""


def _is_answers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and TEXT.accepts(each.get("text")) for each in value)
    )


ANSWERS = Field(_is_answers, 'a list of answers, each {"text": ..., "answer_start": ...}')


def mmlu(
    *, subject: str, hub: dict[str, Any], data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """A subject's `dev` (the five shots, in order) and `test` questions.

    Columns question, subject, choices (four strings), answer (index of the right one).
    """

    def convert(row: Row) -> Row:
        choices = [row[letter] for letter in LETTERS]
        answer = LETTERS.index(row["answer"])
        return {"question": row["question"], "subject": subject, "choices": choices} | {
            "answer": answer
        }

    fields = {"subject": TEXT, "question": TEXT, **dict.fromkeys(LETTERS, TEXT), "answer": LETTER}
    key = ("subject", subject)
    found = _splits("general/mmlu", ("test", "dev"), fields, key, convert, data_root)
    return _or_hub(found, "general/mmlu", SUBJECT, {**hub, "name": subject}, data_root)


def bbh(
    *, problem: str, hub: dict[str, Any], data_root: str | None = None, **_: Any
) -> dict[str, Dataset]:
    """A sub-task's `test` problems, columns input and target; its shots are in lm-eval's YAML."""
    fields = {"task": TEXT, **PROBLEM}
    found = {"test": _member("general/bbh", "test", fields, ("task", problem), _same, data_root)}
    return _or_hub(found, "general/bbh", PROBLEM, {**hub, "name": problem}, data_root)


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
    fields = {"task": TEXT, "cot_prompt": TEXT}
    key = ("task", problem)
    rows = _member("general/bbh", "dev", fields, key, _same, data_root) or []
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

    def convert(row: Row) -> Row:
        return {**row, "answers": [answer["text"] for answer in row["answers"]]}

    fields = {"language": TEXT, **PASSAGE, "answers": ANSWERS}
    key = ("language", language)
    rows = _member("general/tydiqa", "test", fields, key, convert, data_root)
    found = _or_hub({"validation": rows}, "general/tydiqa", PASSAGE, hub, data_root)
    if rows is None:
        ours = found["validation"].filter(lambda doc: doc["id"].startswith(f"{language}-"))
        texts = ours.map(lambda doc: {"answers": doc["answers"]["text"]})
        return {"validation": texts}
    return found


def gsm8k(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """GSM8K's `train` (for the shots) and `test` problems, columns question and answer."""
    found = _splits("general/gsm8k", ("train", "test"), SOLUTION, None, _same, data_root)
    return _or_hub(found, "general/gsm8k", SOLUTION, hub, data_root)


def piqa(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """PIQA's labelled validation set, columns goal, sol1, sol2, label (0 or 1)."""
    fields = {"goal": TEXT, "sol1": TEXT, "sol2": TEXT, "label": BINARY}
    return {"test": general_split("general/piqa", fields, hub, data_root=data_root)}


def boolq(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """BoolQ's labelled validation set, columns question, passage, label (0 no, 1 yes)."""
    fields = {"question": TEXT, "passage": TEXT, "label": TRUE_FALSE}
    documents = general_split(
        "general/boolq",
        fields,
        hub,
        data_root=data_root,
        convert=lambda row: {**row, "label": int(row["label"] == "true")},
        converted={**fields, "label": BINARY},
    )
    return {"test": documents}


def humaneval(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """HumanEval's problems in `<data_root>/code/humaneval/test.jsonl`, with the checks of each."""
    names = ("task_id", "prompt", "entry_point", "canonical_solution", "test")
    where = {**hub, "split": "test"}
    fields = dict.fromkeys(names, TEXT)
    return {"test": general_split("code/humaneval", fields, where, data_root=data_root)}


def _same(row: Row) -> Row:
    return row


def _splits(
    folder: str,
    splits: Sequence[str],
    fields: Mapping[str, Field],
    key: tuple[str, str] | None,
    convert: Callable[[Row], Row],
    data_root: str | None,
) -> dict[str, list[Row] | None]:
    """`_member` of every split; UserError has the faults of all their files."""
    found: dict[str, list[Row] | None] = {}
    faults: list[str] = []
    for split in splits:
        try:
            found[split] = _member(folder, split, fields, key, convert, data_root)
        except UserError as error:
            faults += error.faults
    if faults:
        raise UserError(faults)
    return found


def _member(
    folder: str,
    split: str,
    fields: Mapping[str, Field],
    key: tuple[str, str] | None,
    convert: Callable[[Row], Row],
    data_root: str | None,
) -> list[Row] | None:
    """Rows of one member in `<data_root>/<folder>/<split>.jsonl`; None without that folder."""
    path = resolve_data_root(data_root) / folder / f"{split}.jsonl"
    if not (path.parent / "test.jsonl").is_file():
        return None
    if not path.is_file():
        raise UserError(f"{path}: not found, but test.jsonl is there: the folder is incomplete")
    column, member = key or ("", "")
    groups = _grouped(path, path.stat().st_mtime_ns, column, tuple(fields.items()))
    if not groups:
        raise UserError(no_rows(path))
    rows = groups.get(member)
    if not rows:
        raise UserError(f"{path}: no row has {column} '{member}'")
    return [convert({name: row[name] for name in fields if name != column}) for row in rows]


@functools.lru_cache(maxsize=8)
def _grouped(
    path: Path, _modified: int, column: str, fields: tuple[tuple[str, Field], ...]
) -> Mapping[str, list[Row]]:
    """Rows by the value of a column; a file is read once, not once a member."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in read_jsonl(path, dict(fields)):
        groups[row[column] if column else ""].append(row)
    return groups


def _or_hub(
    found: Mapping[str, list[Row] | None],
    folder: str,
    columns: Mapping[str, Field],
    hub: dict[str, Any],
    data_root: str | None,
) -> dict[str, Dataset]:
    """Datasets of the rows that were found, else the Hub's splits of the same names."""
    return {
        split: general_split(folder, columns, {**hub, "split": split}, data_root=data_root)
        if rows is None
        else _dataset(rows)
        for split, rows in found.items()
    }


def _dataset(rows: list[Row]) -> Dataset:
    from datasets import Dataset
    from datasets.table import InMemoryTable

    # A fingerprint of our own: the default one pickles the dataset, half of the time to load MMLU.
    content = json.dumps(rows, ensure_ascii=False).encode()
    fingerprint = hashlib.sha256(content).hexdigest()[:16]
    return Dataset(InMemoryTable.from_pylist(rows), fingerprint=fingerprint)

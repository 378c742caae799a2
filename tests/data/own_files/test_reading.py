"""The same rows from every kind of file, from folders and from the Hub."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cl_bench.data.own_files.reading import read_source
from cl_bench.data.own_files.task import StageData, own_task
from cl_bench.errors import Absent, UserError

ROWS = [
    {"prompt": 'He said "so",\nand left', "response": "2020-01-01"},
    {"prompt": "ünï, 文", "response": " padded"},
    {"prompt": "three", "response": "a\tb"},
]


def _table(separator: str) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter=separator)
            writer.writerow(["prompt", "response"])
            writer.writerows([row["prompt"], row["response"]] for row in ROWS)

    return write


def _lines(file: Path) -> None:
    file.write_text("\n".join(json.dumps(row) for row in ROWS) + "\n\n", encoding="utf-8-sig")


WRITERS: dict[str, tuple[Callable[[Path], Any], str, list[int]]] = {
    "rows.jsonl": (_lines, "JSON lines", [1, 2, 3]),
    "lines.json": (_lines, "JSON lines", [1, 2, 3]),
    "rows.json": (lambda f: f.write_text(json.dumps(ROWS, indent=1)), "a JSON list", [1, 2, 3]),
    "rows.csv": (_table(","), "CSV", [2, 4, 5]),
    "rows.tsv": (_table("\t"), "TSV", [2, 4, 5]),
    "rows.parquet": (
        lambda f: pq.write_table(pa.Table.from_pylist(ROWS), f),
        "Parquet",
        [1, 2, 3],
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    write, kind, numbers = WRITERS[name]
    write(tmp_path / name)
    source = read_source(str(tmp_path / name))
    assert source.kind == kind and list(source.splits) == ["train"]
    rows = source.splits["train"]
    assert [row.value for row in rows] == ROWS
    assert [row.number for row in rows] == numbers


def test_conversations_come_out_of_parquet_as_of_json(tmp_path: Path) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"Hi {i}"},
                {"role": "assistant", "content": "Ho"},
            ]
        }
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    task = own_task("a", StageData(str(tmp_path / "a.parquet"), holdout=1), scored=True)
    splits = task.config["custom_dataset"]()
    found = [turns for split in ("train", "test") for turns in splits[split][:]["turns"]]
    assert sorted(found, key=str) == [row["messages"] for row in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "set"
    (root / "data").mkdir(parents=True)
    (root / ".cache").mkdir()
    files = {
        "data/train-00000-of-00002.jsonl": ["a", "b"],
        "data/train-00001-of-00002.jsonl": ["c"],
        "data/test.jsonl": ["d"],
        "data/dev.jsonl": ["e"],
        "extra.jsonl": ["f"],
        ".cache/train.jsonl": ["g"],
    }
    for name, prompts in files.items():
        rows = [{"prompt": prompt, "response": prompt} for prompt in prompts]
        (root / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "README.md").write_text("no rows")
    return root


def prompts(rows: Any) -> list[str]:
    return [turns[0]["content"] for turns in rows[:]["turns"]]


def test_a_folder_is_its_files_by_the_splits_that_their_names_say(folder: Path) -> None:
    source = read_source(str(folder))
    found = {name: [row.value["prompt"] for row in rows] for name, rows in source.splits.items()}
    assert found == {"train": ["a", "b", "c", "f"], "test": ["d"], "validation": ["e"]}
    task = own_task("set", StageData(str(folder)), scored=True)
    splits = task.config["custom_dataset"]()
    assert [prompts(splits[split]) for split in ("train", "test")] == [["a", "b", "c", "f"], ["d"]]
    assert "5 files" in task.fact and "its split test" in task.fact
    (folder / "data/test.jsonl").unlink()
    splits = own_task("set", StageData(str(folder)), scored=True).config["custom_dataset"]()
    assert prompts(splits["test"]) == ["e"]
    (folder / "data/dev.jsonl").unlink()
    with pytest.raises(UserError, match="nothing to score it on"):
        own_task("set", StageData(str(folder)), scored=True)
    assert own_task("set", StageData(str(folder)), scored=False).config["validation_split"]


def test_a_data_set_of_the_hub_is_read_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    splits = {
        "train": datasets.Dataset.from_list([{"prompt": "a", "response": "b", "messages": None}]),
        "test": datasets.Dataset.from_list([{"prompt": "c", "response": "d"}]),
        "train_prefs": datasets.Dataset.from_list([{"chosen": "x"}]),
    }

    def load(*given: Any, revision: str | None) -> Any:
        asked.append((*given, revision))
        return splits

    monkeypatch.setattr(datasets, "load_dataset", load)
    task = own_task("x", StageData("hf://owner/set@v1:de"), scored=True)
    assert asked == [("owner/set", "de", "v1")] and "a data set of the Hub" in task.fact
    assert prompts(task.config["custom_dataset"]()["test"]) == ["c"]
    del splits["train"]
    with pytest.raises(UserError, match=r"no split 'train' \(there: test, train_prefs\)"):
        own_task("x", StageData("hf://datasets/owner/set"), scored=True)
    with pytest.raises(UserError, match="expected hf://owner/name"):
        own_task("x", StageData("hf://set"), scored=True)

    def fails(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", fails)
    with pytest.raises(UserError, match="no network") as caught:
        own_task("x", StageData("hf://owner/set"), scored=True)
    assert isinstance(caught.value.faults[0], Absent)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", "", "no rows"),
        ("a.txt", "x", "its name does not say what it holds"),
        ("a.jsonl", '{"prompt": "x"}\n{oops\n', "line 2: not JSON"),
        ("a.csv", "prompt,response\na,b,c\n", "line 2: 3 fields, the first line has 2"),
        ("a.csv", "prompt,response\n", "no rows"),
        ("a.parquet", "PAR1", "cannot be read as Parquet"),
        ("a.json", '{"data": []}', "one object (with data)"),
    ],
)
def test_what_is_no_file_of_rows_is_refused(
    name: str, content: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    for place in (tmp_path / name, tmp_path):
        if name != "a.txt" or place != tmp_path:
            with pytest.raises(UserError) as caught:
                read_source(str(place))
            assert says in str(caught.value) and name in str(caught.value)
    with pytest.raises(UserError, match=r"not found|without files of rows"):
        read_source(str(tmp_path / "nowhere"))

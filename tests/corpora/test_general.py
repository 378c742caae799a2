"""General sets made from their published files: bit for bit what the registry knows.

The published forms are made here from the collected files, whose own making is known to be exact.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cl_bench.corpora.download import get_files
from cl_bench.corpora.recipes import RECIPES
from cl_bench.corpora.registry import KnownFile, general_files
from cl_bench.corpora.transfer import Patience
from cl_bench.errors import RunError
from tests.corpora.conftest import Site

ONCE = Patience(attempts=1, pause=0, timeout=5)


def grouped(rows: list[dict[str, Any]], key: str) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def bbh_test(rows: list[dict[str, Any]], _: str) -> dict[str, bytes]:
    return {
        f"bbh/{task}.json": json.dumps(
            {
                "canary": "x",
                "examples": [{"input": r["input"], "target": r["target"]} for r in group],
            }
        ).encode()
        for task, group in grouped(rows, "task").items()
    }


def bbh_dev(rows: list[dict[str, Any]], _: str) -> dict[str, bytes]:
    return {f"cot-prompts/{row['task']}.txt": row["cot_prompt"].encode() for row in rows}


def mmlu(rows: list[dict[str, Any]], split: str) -> dict[str, bytes]:
    files = {}
    for subject, group in grouped(rows, "subject").items():
        table = io.StringIO(newline="")
        csv.writer(table).writerows(list(row.values())[1:] for row in group)
        files[f"eval/data/MMLU/data/{split}/{subject}_{split}.csv"] = table.getvalue().encode()
    return files


def piqa(rows: list[dict[str, Any]], _: str) -> dict[str, bytes]:
    questions = [json.dumps({key: row[key] for key in ("goal", "sol1", "sol2")}) for row in rows]
    return {
        "piqa/data/valid.jsonl": "\n".join(questions).encode(),
        "piqa/data/valid-labels.lst": "\n".join(str(row["label"]) for row in rows).encode(),
    }


def tydiqa(rows: list[dict[str, Any]], split: str) -> dict[str, bytes]:
    published = "dev" if split == "test" else "train"
    files = {}
    for language, group in grouped(rows, "language").items():
        articles = [
            {
                "title": row["title"],
                "paragraphs": [
                    {
                        "context": row["context"],
                        "qas": [{key: row[key] for key in ("question", "answers", "id")}],
                    }
                ],
            }
            for row in [*group, *(group if split == "dev" else [])]  # more than are kept
        ]
        path = f"language_data/{language}/{language}_tydiqa_{published}.json"
        files[path] = json.dumps({"data": articles}).encode()
    return files


MAKERS: dict[str, Callable[[list[dict[str, Any]], str], dict[str, bytes]]] = {
    "bbh/dev": bbh_dev, "bbh/test": bbh_test, "mmlu": mmlu, "piqa": piqa, "tydiqa": tydiqa,
}  # fmt: skip


def publish(site: Site, known: KnownFile, shared_dir: Path) -> None:
    """Serves what the repository of `known` holds."""
    path = shared_dir / "data" / known.file
    files = {known.path: path.read_bytes()}
    if known.file == "general/gsm8k/dev.jsonl":
        files = {known.path: path.with_name("train.jsonl").read_bytes()}
    elif known.status == "built":
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        split = known.split
        maker = MAKERS.get(f"{known.dataset}/{split}") or MAKERS[known.dataset]
        files = maker(rows, split)
    for name, content in files.items():
        site.files[f"/{known.repository}/{known.commit}/{name}"] = content


@pytest.mark.parametrize("file", [one.file for one in general_files()])
def test_the_known_file_comes_out(file: str, site: Site, shared_dir: Path, tmp_path: Path) -> None:
    (known,) = [one for one in general_files() if one.file == file]
    publish(site, known, shared_dir)
    (outcome,) = get_files([known], tmp_path, mirror=site.url, patience=ONCE)
    assert outcome.action == ("built" if known.status == "built" else "downloaded")
    assert (tmp_path / file).read_bytes() == (shared_dir / "data" / file).read_bytes()
    assert list(tmp_path.rglob("*.part")) == []


def test_sources_that_came_are_not_asked_for_again(
    site: Site, shared_dir: Path, tmp_path: Path
) -> None:
    (known,) = [one for one in general_files() if one.file == "general/bbh/dev.jsonl"]
    publish(site, known, shared_dir)
    last = f"/{known.repository}/{known.commit}/{RECIPES[known.file].sources[-1]}"
    content = site.files.pop(last)
    with pytest.raises(RunError, match=r"bbh/dev\.jsonl: the server answered 404"):
        get_files([known], tmp_path, mirror=site.url, patience=ONCE)
    assert not (tmp_path / known.file).exists()
    site.files[last] = content
    site.requests.clear()
    get_files([known], tmp_path, mirror=site.url, patience=ONCE)
    assert site.requests == [(last, None)]
    assert (tmp_path / known.file).exists()


@pytest.mark.parametrize(
    "content", [b"", b"{}", b'{"examples": [{"input": 1}]}', b"<html>", b"\xff"]
)
def test_other_sources_make_no_file(
    content: bytes, site: Site, shared_dir: Path, tmp_path: Path
) -> None:
    (known,) = [one for one in general_files() if one.file == "general/bbh/test.jsonl"]
    publish(site, known, shared_dir)
    site.files[f"/{known.repository}/{known.commit}/{RECIPES[known.file].sources[0]}"] = content
    with pytest.raises(RunError, match="does not make the known file"):
        get_files([known], tmp_path, mirror=site.url, patience=ONCE)
    assert [path.name for path in tmp_path.rglob("*.jsonl*")] == []

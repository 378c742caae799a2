"""The table of known files agrees with what was collected, and names are understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cl_bench.corpora.recipes import RECIPES
from cl_bench.corpora.registry import (
    FOLDERS,
    LICENCES,
    LIMA,
    SPLITS,
    VARIANTS,
    check_variant,
    general_files,
    known_files,
    raw_url,
    select_tasks,
    trace_files,
)
from cl_bench.errors import UserError


def test_every_collected_file_is_known_with_its_checksum(shared_dir: Path) -> None:
    manifest = json.loads((shared_dir / "data" / "MANIFEST.json").read_text())
    known = {(one.file.split("/", 1)[1], one.sha256, one.rows, one.size) for one in known_files()}
    for entry in manifest:
        suite, _, rest = entry["file"].partition("/")
        if suite in ("trace", "trace_500", "general"):
            assert (rest, entry["sha256"], entry["rows"], entry["bytes"]) in known, entry["file"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_complete(variant: str) -> None:
    files = trace_files(variant, [*FOLDERS, LIMA])
    assert {one.file for one in files} == {
        f"trace/{task}/{split}.json" for task in (*FOLDERS, LIMA) for split in SPLITS
    }
    assert all(one.git_blob for one in files)
    assert all(f"LLM-CL-Benchmark_{variant}/" in one.path for one in files)
    assert {one.rows for one in files if one.split == "train"} == {int(variant), 1030}


def test_an_unknown_checksum_is_said_to_be_unknown() -> None:
    unread = [one for one in known_files() if one.sha256 is None]
    assert len(unread) == 14
    assert all(one.size is None and one.examples is None and one.git_blob for one in unread)


def test_every_set_that_can_be_had_has_a_licence_and_every_built_one_a_recipe() -> None:
    files = [*trace_files("5000", [*FOLDERS, LIMA]), *general_files()]
    assert {one.dataset for one in files} == {licence.dataset for licence in LICENCES}
    assert {one.file for one in files if one.status == "built"} == set(RECIPES)
    assert all(one.path in ("", *RECIPES[one.file].sources) or "*" in one.path or " + " in one.path
               for one in files if one.status == "built")  # fmt: skip


def test_urls() -> None:
    (file,) = [one for one in trace_files("5000", ["FOMC"]) if one.split == "train"]
    tail = "TRACE-Benchmark/LLM-CL-Benchmark_5000/FOMC/train.json"
    commit = "cb1bfea893e6181801b1e663ec659316533c1e21"
    github = f"https://raw.githubusercontent.com/zjwang21/TRACE/{commit}/{tail}"
    assert raw_url(file, None) == github
    assert (
        raw_url(file, "https://m.example/") == f"https://m.example/zjwang21/TRACE/{commit}/{tail}"
    )
    assert raw_url(file, None, "a b{commit}.json").endswith("/a%20b%7Bcommit%7D.json")


def test_tasks_by_any_spelling() -> None:
    names = ["fomc", "trace_numglue_cm,C-Stance", "20minuten", "FOMC"]
    assert select_tasks(names, ()) == ["FOMC", "NumGLUE-cm", "C-STANCE", "20Minuten"]
    assert select_tasks([], FOLDERS) == list(FOLDERS)
    with pytest.raises(UserError) as refusal:
        select_tasks(["FOMC,fmoc", "Py15"], ())
    assert refusal.value.faults == [
        "--task: unknown task 'fmoc' (did you mean 'FOMC'?)",
        "--task: unknown task 'Py15' (did you mean 'Py150'?)",
    ]


def test_general_sets_and_variants_by_name() -> None:
    assert {one.dataset for one in general_files(["GSM8K,piqa"])} == {"gsm8k", "piqa"}
    with pytest.raises(UserError, match="unknown set 'gms8k' \\(did you mean 'gsm8k'"):
        general_files(["gms8k"])
    with pytest.raises(UserError, match="known: 5000, 1000, 500"):
        check_variant("2000")

"""Nothing leads out of an experiment's folder: no link, no name in a record, no label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.config.labels import label_faults
from cl_bench.config.schema import slug
from cl_bench.errors import RunError, UserError
from cl_bench.models.checkpoints import BASE, adapter_base, base_contents
from cl_bench.store.experiments import write_experiment
from cl_bench.store.folders import MANIFEST, read_manifest, write_text
from cl_bench.store.links import check_links, leading_out, links_out
from cl_bench.store.seals import read_scores, write_sealed


def test_links_that_lead_out_are_found_and_others_are_not(tmp_path: Path) -> None:
    folder, other = tmp_path / "tiny", tmp_path / "other"
    (folder / "a" / "b").mkdir(parents=True)
    other.mkdir()
    (folder / "a" / "file").write_text("x")
    (folder / "a" / "b" / "near").symlink_to("../file")
    (folder / "a" / "whole").symlink_to("b")
    check_links(folder)
    (tmp_path / "named").symlink_to(folder)
    check_links(tmp_path / "named")  # the folder itself may be reached by a link
    leading = {
        folder / "out": other,
        folder / "a" / "up": Path("../.."),
        folder / "a" / "b" / "gone": tmp_path / "gone",
        folder / "a" / "b" / "twice": folder / "out",
        folder / "prefix": tmp_path / "tiny-too",
    }
    for link, target in leading.items():
        link.symlink_to(target)
    assert {line.split(": ")[0] for line in links_out(folder)} == set(map(str, leading))
    with pytest.raises(UserError, match="leads out of"):
        check_links(folder)


def test_a_circle_of_links_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    assert links_out(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\..\\x", "", "a\0b", ".", 3])
def test_names_that_lead_out(name: object) -> None:
    assert leading_out(["a/b.json", name]) == str(name)


def test_records_name_nothing_outside(tmp_path: Path) -> None:
    assert leading_out(["model.safetensors", "predictions/a.jsonl", "..a", "a..b"]) is None
    (tmp_path / MANIFEST).write_text(json.dumps({"../secret": {"bytes": 1, "sha256": "x"}}))
    with pytest.raises(RunError, match=r"manifest.json: names a file outside.*'\.\./secret'"):
        read_manifest(tmp_path)
    scores = {"trace": {}, "general": {}}
    for more, said in (
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": "x"}}}, "outside of its folder"),
        ({"trace": {"../x": {"score": 0.5}}}, "is no name of a task"),
        ({"general": {"a": {"score": 0.5, "members": {"../x": {}}}}}, "is no name of a task"),
    ):
        write_sealed(tmp_path / "scores.json", scores | more)
        with pytest.raises(RunError, match=said):
            read_scores(tmp_path)


def test_a_link_in_the_place_of_a_temporary_file_is_not_written_through(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".report.md.tmp").symlink_to(victim)
    write_text(tmp_path / "report.md", "text")
    assert victim.read_text() == "mine" and (tmp_path / "report.md").read_text() == "text"


def test_an_adapter_of_an_experiment_takes_no_base_from_elsewhere(tmp_path: Path) -> None:
    """Not even one that has the checksums which its record asks for."""
    folder = tmp_path / "tiny"
    checkpoint = folder / "lora" / "seed-1" / "stage-2-x" / "checkpoint"
    models = {}
    for name in ("model", "other", "tiny/lora/seed-1/stage-1-x/checkpoint"):
        models[name] = tmp_path / name
        models[name].mkdir(parents=True)
        (models[name] / "config.json").write_text("{}")
        (models[name] / "model.safetensors").write_bytes(name.encode())
    checkpoint.mkdir(parents=True)
    config = {"name": "tiny", "model": {"path": "../model"}}
    write_experiment(folder, {"last_run": "2026", "config": config})
    for name, model in models.items():
        record = {"base": str(model), **base_contents(str(model))}
        (checkpoint / BASE).write_text(json.dumps(record))
        if name == "other":
            with pytest.raises(UserError, match=r"other is neither in the experiment's folder"):
                adapter_base(checkpoint)
        else:
            assert adapter_base(checkpoint) == str(model)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30))
def test_no_label_names_a_folder_elsewhere(label: str) -> None:
    if not label_faults([label]):
        folder = slug(label)
        assert folder and folder.strip(".") and not set(folder) & set("/\\\0")

"""`cl-bench verify`: every damaged file is found, and nothing else is called damaged."""

from __future__ import annotations

import json
import random
import shutil

from cl_bench.experiment.verify import DERIVED, verify
from tests.e2e.conftest import Bench

METHODS = [{"name": "ewc", "label": "pull"}, {"name": "lora", "lr": 1e-3}]

MISSED = ("scores.json", "run.json", "trained.json", "model.safetensors", "manifest.json")


def verified(bench: Bench) -> tuple[int, list[str], list[str]]:
    code, out, _ = bench.run("verify", "tiny", "--json")
    found = json.loads(out)
    return code, found["faults"], found["notes"]


def test_every_damage_is_found_with_the_file_and_nothing_else(bench: Bench) -> None:
    bench.write_config(methods=METHODS)
    bench.trained()
    assert verified(bench) == (0, [], [])
    assert "files are as they were written" in bench.must("verify", "tiny")
    files = [file for file in sorted(bench.results.rglob("*")) if file.is_file()]
    files = [file for file in files if not file.name.startswith("report")]
    kinds = {file.name: file for file in files if file.name not in DERIVED}  # one of each name
    assert {"scores.json", "run.json", "trained.json", "model.safetensors"} <= kinds.keys()
    for name, file in kinds.items():
        content = file.read_bytes()
        if len(content) > 2:
            damaged = bytearray(content)
            damaged[random.Random(name).randrange(len(content))] ^= 1 << 3
            file.write_bytes(damaged)
            assert any(str(file) in fault for fault in verify(bench.results).faults), file
        if name in MISSED:
            file.unlink()
            found = verify(bench.results)
            assert any(str(file.parent) in line for line in (*found.faults, *found.notes)), file
        file.write_bytes(content)
    assert verified(bench) == (0, [], [])


def test_what_was_deleted_to_save_room_is_no_fault_and_strangers_are_told(bench: Bench) -> None:
    bench.write_config(methods=METHODS)
    bench.trained()
    stage = bench.results / "pull/seed-1/stage-1-trace_fomc"
    shutil.rmtree(stage / "checkpoint")
    shutil.rmtree(stage / "predictions")
    (stage / "mine.txt").write_text("a note")
    code, faults, notes = verified(bench)
    assert (code, faults) == (0, [])
    assert any("checkpoint: deleted" in note for note in notes)
    assert any("predictions: deleted" in note for note in notes)
    assert any("mine.txt: no record names it" in note for note in notes)
    last = bench.results / "pull/seed-1/stage-2-trace_numglue_ds"
    (last / "scores.json").unlink()
    code, faults, notes = verified(bench)
    assert (code, faults) == (0, []) and any("not finished" in note for note in notes)
    bench.must("run", "tiny.yaml")
    assert verified(bench)[:2] == (0, [])


def test_what_cannot_be_read_hides_nothing_else(bench: Bench) -> None:
    """A manifest that is no JSON, a curve that is gone, and a prediction that was cut: all told."""
    bench.write_config(methods=METHODS, eval={"within_stage": "epoch", "trace": {"limit": 3}})
    bench.must("run", "tiny.yaml", "--method", "pull", "-o", "eval.general.after=never")
    first, second = (
        bench.results / "pull/seed-1" / name
        for name in ("stage-1-trace_fomc", "stage-2-trace_numglue_ds")
    )
    (first / "checkpoint" / "manifest.json").write_text("{")
    (first / "curve.jsonl").unlink()
    cut = second / "predictions" / "trace_fomc.jsonl"
    cut.write_text(cut.read_text()[:-5])
    code, faults, _ = verified(bench)
    assert code == 1
    for file in (first / "checkpoint/manifest.json", first / "curve.jsonl", cut):
        assert any(str(file.relative_to(bench.root)) in fault for fault in faults), file

"""`cl-bench verify`: every damaged file is found, and nothing else is called damaged."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
from typing import Any

from cl_bench.cli import run_command
from cl_bench.experiment.verify import DERIVED, verify
from cl_bench.progress import Reporter
from tests.e2e.conftest import Bench
from tests.helpers.forked import watched

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
    (bench.results / "report-figures").mkdir()
    (bench.results / "report-figures/stages.svg").write_text("made again by reports")
    code, faults, notes = verified(bench)
    assert (code, faults) == (0, [])
    assert any("checkpoint: deleted" in note for note in notes)
    assert any("predictions: deleted" in note for note in notes)
    assert ["mine.txt" in note for note in notes if "no record names it" in note] == [True]
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


def test_a_flipped_bit_anywhere_is_found(bench: Bench) -> None:
    """Also in deltas, in the model that is scored, in what a stage saved on its way."""

    def stopped() -> int:
        step = Reporter.step

        def told(self: Reporter, record: Any, total: int) -> None:
            step(self, record, total)
            if record["phase"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        Reporter.step = told  # type: ignore[method-assign]
        return run_command(["run", "tiny.yaml"])

    phases = {"name": "replay", "mode": "posthoc", "selection": "nll", "label": "phases"}
    whole = [METHODS[1], "der"]
    bench.write_config(
        methods=[{"name": "ori", "shots": 1}, *whole, phases],
        stages=[{"task": "FOMC", "limit": 4}, {"task": "trace_numglue_ds", "limit": 4}],
        eval={"within_stage": "epoch", "trace": {"limit": 1}, "general": {"tasks": ["piqa"]}},
        checkpoints="delta",
        save_every="1 updates",
    )
    process, lines = watched(stopped)
    said = lines.read()
    lines.close()
    assert process.wait() == 130, said
    assert verified(bench)[0] == 0
    kinds = {}
    for file in sorted(bench.results.rglob("*")):
        # The logs of a stage in training have no record yet: the next start looks at them.
        open_log = file.suffix == ".jsonl" and (file.parent / "midway").is_dir()
        if file.is_file() and file.name not in DERIVED and file.stat().st_size > 2 and not open_log:
            kinds[re.sub(r"[0-9]+", "N", file.parent.name), file.name] = file
    names = {"model.delta.safetensors", "method.json", "engine.safetensors", "belongs.json"}
    assert names <= {name for _, name in kinds} and ("phase-N", "weights.safetensors") in kinds
    silent = []
    for file in kinds.values():
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[random.Random(str(file.name)).randrange(len(content))] ^= 1 << 3
        file.write_bytes(damaged)
        # A manifest may be wrong about a file: then that one is named.
        named = file.parent if file.name == "manifest.json" else file
        if not any(str(named) in fault for fault in verify(bench.results).faults):
            silent.append(str(file))
        file.write_bytes(content)
    assert not silent, silent

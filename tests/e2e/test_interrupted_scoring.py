"""A scoring that is killed goes on with the tasks that are missing, and ends in the same bytes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import cl_bench.evaluation.units as units
import cl_bench.store.partial as partial
from cl_bench.cli import run_command
from cl_bench.store.seals import write_sealed
from tests.e2e.conftest import Bench, fingerprints
from tests.helpers.forked import watched


def kill_after(writes: int, *arguments: str) -> None:
    """`cl-bench ARGUMENTS` in a process that is killed (SIGKILL) after so many score files."""

    def work() -> int:
        write, left = partial.write_json, writes

        def write_and_die(path: Path, data: object) -> None:
            nonlocal left
            write(path, data)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        partial.write_json = write_and_die
        return run_command(list(arguments))

    process, lines = watched(work)
    said = lines.read()
    lines.close()
    assert process.wait() == -signal.SIGKILL, said


class Killed(BaseException):
    """Stands for a kill where a new process for each would take too long."""


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The leaf tasks that the commands of this process score, in order."""
    names: list[str] = []
    evaluate = units.evaluate_tasks

    def note(lm, tasks, documents, cap=None):
        names.extend(tasks)
        return evaluate(lm, tasks, documents, cap)

    monkeypatch.setattr(units, "evaluate_tasks", note)
    return names


def test_sigkill_while_a_stage_is_scored(bench: Bench, answered: list[str]) -> None:
    command = ["run", "tiny.yaml", "--method", "sft"]
    bench.must(*command, "-o", "name=whole")
    assert len(answered) == 3 + 2 + 3  # the base, stage 1, stage 2
    answered.clear()
    kill_after(3 + 1 + 1, *command)  # the base's tasks and scores.json, a task of stage 1
    stage = bench.results / "sft" / "seed-1" / "stage-1-trace_fomc"
    assert [file.name for file in (stage / "partial").iterdir()] == ["trace-trace_fomc.json"]
    assert not (stage / "scores.json").exists()
    kept = json.loads((stage / "partial" / "trace-trace_fomc.json").read_text())
    kept["seconds"] += 1000
    write_sealed(stage / "partial" / "trace-trace_fomc.json", kept)
    bench.must(*command)
    # The time of both sessions.
    assert json.loads((stage / "timing.json").read_text())["score_seconds"] > kept["seconds"]
    assert answered == ["general_piqa", "trace_fomc", "trace_numglue_ds", "general_piqa"]
    whole = bench.root / "results" / "whole"
    for part in ("base", "sft"):
        assert fingerprints(bench.results / part) == fingerprints(whole / part)


@pytest.mark.parametrize("method", ["lora", pytest.param("sft", marks=pytest.mark.slow)])
def test_killed_at_every_write_of_a_stage(
    bench: Bench, answered: list[str], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    bench.write_config(methods=[method])
    bench.must("run", "tiny.yaml")
    whole = fingerprints(bench.results)
    stage = next((bench.results / method / "seed-1").glob("stage-2-*"))
    for file in [stage / "scores.json", *(stage / "predictions").iterdir()]:
        file.unlink()
    answered.clear()
    with monkeypatch.context() as patch:  # the records are there, the scores are not
        patch.setattr(partial, "write_records", _dies_after(partial.write_records))
        with pytest.raises(Killed):
            bench.run("run", "tiny.yaml")
    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_json", _dies_after(partial.write_json))
        while not (stage / "scores.json").is_file():
            with pytest.raises(Killed):
                bench.run("run", "tiny.yaml")
    assert (stage / "partial").is_dir()  # killed between the last file and the removal of these
    bench.must("run", "tiny.yaml")
    assert fingerprints(bench.results) == whole
    assert answered == ["trace_fomc", "trace_fomc", "trace_numglue_ds", "general_piqa"]


def _dies_after(write: Callable[..., None]) -> Callable[..., None]:
    def dying(*arguments: object) -> None:
        write(*arguments)
        raise Killed

    return dying


def test_what_was_scored_under_other_conditions_is_scored_again(
    bench: Bench, answered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["run", "tiny.yaml", "--method", "sft"]
    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_json", _dies_after(partial.write_json))
        with pytest.raises(Killed):
            bench.run(*command)
    assert answered == ["trace_fomc"]
    kept = json.loads((bench.results / "base/partial/trace-trace_fomc.json").read_text())
    basis = {"model", "engine", "probes"}
    assert set(kept["depends_on"]) == basis | {"documents", "shots", "tasks", "prompt"}
    bench.must(*command, "-o", "eval.trace.limit=5")
    base = json.loads((bench.results / "base" / "scores.json").read_text())
    assert base["trace"]["trace_fomc"]["n"] == 5


def test_eval_goes_on_too_and_does_nothing_twice(
    bench: Bench, answered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.trained("--method", "sft")
    command = ["eval", "--stage", "2", "--limit", "3"]
    answered.clear()
    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_json", _dies_after(partial.write_json))
        with pytest.raises(Killed):
            bench.run(*command)
    file = Path(bench.must(*command).strip())
    assert answered == ["trace_fomc", "trace_numglue_ds", "general_piqa"]
    scores = json.loads(file.read_text())
    assert [entry["n"] for entry in scores["trace"].values()] == [3, 3]
    assert sorted(path.name for path in file.parent.iterdir()) == ["predictions", "scores.json"]
    assert Path(bench.must(*command).strip()) == file
    assert len(answered) == 3

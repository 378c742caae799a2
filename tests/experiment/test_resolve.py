"""A config becomes stages once: what each trains on, from what, and what is scored after it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cl_bench
from cl_bench.config.schema import ExperimentConfig
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.base import Method
from cl_bench.methods.spec import Experiment, Scored

A, B, C = "mini_fomc", "mini_cstance", "mini_py150"


def experiment(
    stages: list[Any] | None = None,
    methods: list[Any] | None = None,
    only: tuple[str, ...] = (),
    **evaluation: Any,
) -> Experiment:
    given = [one if isinstance(one, dict) else {"task": one} for one in stages or [A, B, C]]
    data = {"name": "x", "model": {"path": "m"}, "stages": given, "eval": evaluation}
    if not all("method" in one for one in given):
        data["methods"] = methods or ["sft"]
    return resolve(ExperimentConfig.model_validate(data), only)


def scored(found: Experiment, run: int = 0) -> list[Scored]:
    return [stage.scored for stage in found.runs[run].stages]


def columns(found: Experiment, run: int = 0) -> list[tuple[str, ...]]:
    return [each.columns for each in scored(found, run)]


def faults(*arguments: Any, **more: Any) -> str:
    with pytest.raises(UserError) as caught:
        experiment(*arguments, **more)
    return "\n".join(caught.value.faults)


@pytest.mark.parametrize(
    ("trace", "rows"),
    [
        ({}, [(A,), (A, B), (A, B, C)]),
        ({"cells": "last+diagonal"}, [(A,), (B,), (A, B, C)]),
        ({"cells": "all"}, [(A, B, C)] * 3),
        ({"after": "last"}, [(), (), (A, B, C)]),
        ({"after": "last", "cells": "all"}, [(), (), (A, B, C)]),
        ({"after": "never"}, [(), (), ()]),
    ],
)
def test_the_cells_of_a_sequence(trace: Any, rows: list[Any]) -> None:
    found = experiment(trace=trace)
    assert columns(found) == rows
    assert [each.seen for each in scored(found)] == [(A,), (A, B), (A, B, C)]
    assert found.base_columns == ([] if trace.get("after") == "never" else [A, B, C])


def test_general_and_curves() -> None:
    for after, expected in (("every", [1, 1, 1]), ("last", [0, 0, 1]), ("never", [0, 0, 0])):
        assert [s.general for s in scored(experiment(general={"after": after}))] == expected
    assert [s.inside for s in scored(experiment())] == [()] * 3
    every = experiment(within_stage="epoch")
    assert [s.inside for s in scored(every)] == [(A,), (A, B), (A, B, C)]
    chosen = experiment(within_stage={"tasks": ["FOMC", "piqa"]})
    assert [s.inside for s in scored(chosen)] == [("trace_fomc", "piqa")] * 3


def test_a_stage_that_only_trains_is_no_column() -> None:
    found = experiment([A, {"task": B, "score": False}, C])
    assert columns(found) == [(A,), (A,), (A, C)] and found.columns == [A, C]
    assert scored(found)[1].seen == (A,)


def test_single_starts_every_stage_from_the_base_model() -> None:
    found = experiment(methods=["single"], general={"after": "last"}, within_stage="epoch")
    assert [stage.start for stage in found.runs[0].stages] == ["base"] * 3
    assert columns(found) == [(A,), (B,), (C,)]
    assert all(s.seen == () and s.general for s in scored(found))
    assert [s.inside for s in scored(found)] == [(A,), (B,), (C,)]
    assert found.runs[0].earlier(2) == []
    for trace in ({"after": "last"}, {"cells": "last+diagonal"}):  # each is the last of its model
        assert columns(experiment(methods=["single"], trace=trace)) == [(A,), (B,), (C,)]
    every = experiment(methods=["single"], trace={"cells": "all"})
    assert columns(every) == [(A, B, C)] * 3


def test_mtl_is_one_stage_with_a_row_for_all() -> None:
    stages = [{"task": A, "limit": 4}, {"task": B, "score": False}, {"task": A, "limit": 9}, C]
    found = experiment(stages, [{"name": "mtl", "epochs": 2}, {"compose": ["mtl", "fggm"]}])
    (stage,) = found.runs[0].stages
    assert stage.sets == ((A, 9), (B, None), (C, None)) and stage.epochs == 2
    assert (stage.index, stage.folder, stage.start) == (1, "stage-1-joint", "base")
    assert stage.scored.columns == stage.scored.seen == (A, C) and stage.scored.general
    assert [part.method.name for part in found.runs[1].stages[0].parts] == ["mtl", "fggm"]
    for trace in ({"after": "last"}, {"cells": "last+diagonal"}, {"cells": "all"}):
        assert columns(experiment(methods=["mtl"], trace=trace)) == [(A, B, C)]


def test_what_mtl_and_single_cannot_do() -> None:
    lone = [{"task": A}, {"task": A, "limit": 3}]
    assert f"methods: mtl: mtl trains all tasks at once, and {A} is the only one" in faults(
        lone, ["mtl"]
    )
    uneven = [{"task": A, "epochs": 5}, {"task": B, "epochs": 3, "lr": 1e-3}]
    said = faults(uneven, ["sft", "mtl"])
    assert "they have 5, 3 epochs: give epochs: in its entry" in said
    assert "stage 2 has another lr than stage 1: give it in the method's entry" in said
    own = [A, {"task": B, "alpha": 0.5}]
    assert "stage 2 has another alpha than" in faults(own, [{"compose": ["mtl", "fggm"]}])
    for method in ("single", "mtl"):
        for part in ("replay", "ewc"):
            said = faults(None, [{"compose": [method, part]}])
            assert f"{part} is about earlier stages, and with {method} no stage goes on" in said
        mixed = [{"task": A, "method": method}, {"task": B, "method": "sft"}]
        assert f"{method} decides about all stages" in faults(mixed)


def test_a_task_may_come_again() -> None:
    stages = [{"task": A, "limit": 4}, B, {"task": A, "limit": 9, "epochs": 3}, C]
    found = experiment(stages)
    run = found.runs[0]
    assert found.columns == [A, B, C] and found.sequence == (A, B, A, C)
    assert [stage.folder for stage in run.stages] == [
        *(f"stage-1-{A}", f"stage-2-{B}", f"stage-3-{A}", f"stage-4-{C}"),
    ]
    assert columns(found) == [(A,), (A, B), (A, B), (A, B, C)]
    diagonal = experiment(stages, trace={"cells": "last+diagonal"})
    assert columns(diagonal) == [(A,), (B,), (A,), (A, B, C)]
    assert [run.earlier(i) for i in range(4)] == [
        *([], [(A, 4)], [(B, None)], [(A, 9), (B, None)]),
    ]
    assert found.limit_of(A) == 9
    assert found.sets == [(A, 4), (A, 9), (B, None), (C, None)]


@pytest.mark.parametrize("key", [{"test_limit": 5}, {"score": False}])
def test_visits_are_scored_alike(key: dict[str, Any]) -> None:
    said = faults([{"task": A, **key}, B, A])
    assert f"stages: {A}: {next(iter(key))} differs between its stages" in said
    experiment([{"task": A, **key}, B, {"task": A, **key}])


class Wrong(Method):
    """A schedule that cannot be run."""

    name = "wrong"
    stages: Any = ()

    def schedule(self, stages: Any) -> list[Any]:
        from dataclasses import replace

        return [replace(stages[0], **change) for change in self.stages]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([], "wrong leaves no stage"),
        ([{}, {}], "stages are numbered [1, 1]"),
        ([{"tasks": ("other",)}], "its tasks are none of the config's"),
        ([{"tasks": (A, B)}], "one of `limits` for each of `tasks`"),
        ([{"start": "stage"}], "starts from 'stage'"),
    ],
)
def test_a_schedule_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, changes: list[Any], said: str
) -> None:
    monkeypatch.setattr(Wrong, "stages", changes)
    monkeypatch.setattr("cl_bench.experiment.resolve.method_class", lambda name: Wrong)
    assert said in faults(None, ["wrong"])


def test_one_place_reads_the_stages_of_a_config() -> None:
    """What a stage is, is in its `StageSpec`: nothing else is looked up in the config again."""
    package = Path(cl_bench.__file__).parent
    read = re.compile(r"(?<!cl_bench\.)config\.stages\b|resolve_tasks\(|\bresolve\(config")
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if read.search(file.read_text())
    }
    assert found == {
        "experiment/resolve.py",
        "data/task_names.py",  # asked by resolve: spellings and files
        "experiment/rescore.py",  # no methods: the tasks of what was run
        "report/first_config.py",  # resolves the config that it writes
    }


def test_checks_know_nothing_of_how_a_config_is_resolved() -> None:
    package = Path(cl_bench.__file__).parent
    below = ("checks", "results", "identity", "evaluation", "methods", "scores", "store")
    for file in (path for name in below for path in (package / name).rglob("*.py")):
        assert "cl_bench.experiment" not in file.read_text(), file

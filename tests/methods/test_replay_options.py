"""Replay after the task, of chosen examples and of a general file, against plain loops."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from cl_bench.config.file import load_config
from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.shapes import shapes_of
from cl_bench.data.examples import Example
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve
from cl_bench.methods.replay import Replay, ReplayOptions
from cl_bench.methods.static_checks import stage_faults
from tests.helpers.reference import (
    NEW,
    OLD,
    TRAIN,
    all64,
    assert_close,
    encode,
    examples,
    make_stage,
    reference_training,
    run_method,
    sample_loss,
    weights,
)
from tests.helpers.sequences import run_sequence
from tests.helpers.tiny import tiny_model

OLDER = examples("older", 15)
EARLIER = [("older", OLDER), ("old", OLD)]


def replay(**options: Any) -> Replay:
    return Replay(ReplayOptions.model_validate(options))


@pytest.fixture
def general(tmp_path: Path) -> Path:
    file = tmp_path / "lima.jsonl"
    rows = [{"prompt": f"Say {i}", "answer": f" {i}{i}"} for i in range(5)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def of_general(count: int) -> list[Example]:
    return [Example(f"Say {i}", f" {i}{i}", i, "general", "generate") for i in range(count)]


def test_an_epoch_of_its_own_after_the_task(general: Path) -> None:
    """TRACE's: the first rows of every earlier task, then all of the general file, once."""
    expected = all64(layers=1)
    model = copy.deepcopy(expected)
    buffer = [*OLDER[:3], *OLD[:2], *of_general(5)]
    reference_training(expected, NEW, TRAIN, 2, index=3)
    reference_training(expected, buffer, TRAIN, 1, index=3, phase=1)
    stage, batcher = make_stage(model, NEW, TRAIN, 3, EARLIER)
    method = replay(mode="posthoc", selection="first", ratio=0.2, general=str(general))
    records = run_method(method, stage, batcher, epochs=2)
    assert_close(weights(model), weights(expected))
    assert [record["phase"] for record in records] == [1] * 6 + [2] * 3
    assert stage.notes["replayed_examples"] == 10


def test_the_first_task_has_the_general_file_alone(general: Path) -> None:
    for options, after in (({"general": str(general)}, [1] * 3 + [2] * 2), ({}, [1] * 3)):
        stage, batcher = make_stage(all64(layers=1), NEW, TRAIN)
        records = run_method(replay(mode="posthoc", **options), stage, batcher, epochs=1)
        assert [record["phase"] for record in records] == after


def test_general_rows_are_mixed_with_their_own_ratio(general: Path) -> None:
    stage, _ = make_stage(all64(layers=1), NEW, TRAIN, 2, [("old", OLD)])
    plain = list(replay(ratio=0.5).examples(stage, NEW))
    chosen = []
    for ratio in (0.4, 1.0):
        mixed = list(
            replay(ratio=0.5, general=str(general), general_ratio=ratio).examples(stage, NEW)
        )
        assert mixed[: len(plain)] == plain
        chosen.append(mixed[len(plain) :])
    assert chosen[1] == of_general(5)
    assert len(chosen[0]) == 2 and set(chosen[0]) < set(chosen[1])


def test_the_least_likely_examples_are_replayed_and_only_numbers_are_kept() -> None:
    start = all64(layers=1)
    first, second = run_sequence(
        lambda: replay(selection="nll", ratio=0.3), copy.deepcopy(start), (OLDER, NEW), TRAIN
    )
    model, items = first.model, encode(OLDER, TRAIN)
    losses = [
        float(sample_loss(model, item).detach()) / (len(item.input_ids) - item.prompt_length)
        for item in items
    ]
    order = sorted(range(15), key=lambda i: -losses[i])
    assert first.state.records == {"replay/older": order} and not first.state.tensors
    assert set(second.state.records) == {"replay/older", "replay/new"}
    mixed = [*NEW, *(OLDER[i] for i in sorted(order[:5]))]
    reference_training(model, mixed, TRAIN, 1, index=2)
    assert_close(second.weights, weights(model))


def stages(*parts: Any) -> Any:
    data = {
        "name": "x",
        "model": {"path": "m"},
        "methods": [{"compose": list(parts)}],
        "stages": [{"task": "FOMC"}, {"task": "C-STANCE"}],
    }

    class Found:
        runs = resolve(ExperimentConfig.model_validate(data)).runs

    return Found


def test_only_one_part_has_phases(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text(
        "from cl_bench.methods.base import Method, Phase\n"
        "class Own(Method):\n    name = 'own'\n"
        "    def phases(self, stage):\n        yield Phase(stage.mixture, 1)\n"
    )
    assert list(stage_faults(stages("replay", {"file": str(own)}))) == []
    posthoc = {"name": "replay", "mode": "posthoc"}
    assert list(stage_faults(stages(posthoc, "fggm"))) == []
    found = list(stage_faults(stages(posthoc, {"file": str(own)})))
    assert len(found) == 2 and "replay and own both define training phases" in found[0]


def test_a_general_file_is_looked_at_before_the_start(tmp_path: Path, general: Path) -> None:
    def faults(**options: Any) -> list[str]:
        return list(replay(**options).refuses(None))  # type: ignore[arg-type]

    assert faults(general=str(general)) == []
    (missing,) = faults(general=str(tmp_path / "no.jsonl"))
    assert missing.startswith("general: ") and "no.jsonl" in missing
    general.write_text('{"prompt": "a"}\n')
    (wrong,) = faults(general=str(general))
    assert "line 1" in wrong and "answer" in wrong
    (of_none,) = faults(general_ratio=0.5)
    assert of_none.startswith("general_ratio: of no file")


def test_a_run_is_bound_to_what_the_file_holds(tmp_path: Path, general: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        "name: x\nmodel: {path: m}\nstages: [{task: FOMC}]\n"
        "methods: [{name: replay, general: lima.jsonl}, {name: replay, label: two, "
        "general: [lima.jsonl, other.jsonl]}]\n"
    )
    runs = resolve(load_config(str(tmp_path / "x.yaml"))).runs
    assert [run.label for run in runs[1:]] == [
        "two general=lima.jsonl",
        "two general=other.jsonl",
    ]
    options = runs[0].stages[0].parts[0].options
    assert options.general == str(general)  # type: ignore[attr-defined]
    before = options.model_dump(mode="json")["general"]
    assert before.startswith("lima.jsonl ") and str(tmp_path) not in before
    general.write_text(general.read_text() + '{"prompt": "a", "answer": "b"}\n')
    assert options.model_dump(mode="json")["general"] != before
    with pytest.raises(UserError):
        replay(general=str(tmp_path / "other.jsonl"))._rows()


def test_what_is_seen_again_is_counted(general: Path) -> None:
    shapes = shapes_of(tiny_model())
    mixed = replay(general=str(general), general_ratio=0.5).adds(shapes).work
    assert (mixed.earlier, mixed.examples, mixed.earlier_once) == (0.1, 3, 0)
    once = replay(general=str(general), mode="posthoc", selection="nll").adds(shapes).work
    assert (once.earlier, once.examples) == (0, 0)
    assert (once.earlier_once, once.examples_once) == (0.1, 5)
    assert [one.flops_per_token for one in once.passes] == [2 * shapes.products]

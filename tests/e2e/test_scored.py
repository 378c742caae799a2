"""A model of its own that is scored: saved, found again after a kill, never mistaken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from cl_bench.errors import RunError
from cl_bench.experiment.library import RunLibrary
from cl_bench.experiment.resolve import resolve_file
from cl_bench.store.folders import RunFolder, sha256_file
from tests.e2e.conftest import Bench
from tests.helpers.merged import ties
from tests.helpers.read import scores_of

ASKS = '''
from dataclasses import replace

from cl_bench.errors import RunError, UserError
from cl_bench.methods.base import Method, State


class Asks(Method):
    """Looks up what a stage offers and notes the answers."""

    name = "asks"

    def prepare(self, stage):
        (stage.folder / "file").write_text("gone afterwards")
        other = stage.task_examples("NumGLUE-ds")
        example = stage.examples[0]
        stage.notes["asked"] = {
            "folder": str(stage.folder),
            "other": [e.prompt for e in other],
            "right": stage.score(example, example.answer),
            "wrong": stage.score(example, "D"),
            "base": sorted(stage.weights(0)) == sorted(dict(stage.model.named_parameters())),
            "text": stage.generate([example.prompt], 2),
            "faults": [],
        }
        made = replace(example, doc_id=-1), replace(example, prompt="another")
        for ask in (
            lambda: stage.task_examples("numglue"),
            lambda: stage.weights(stage.index),
            lambda: stage.score(made[0], "A"),
            lambda: stage.score(made[1], "A"),
        ):
            try:
                ask()
            except (RunError, UserError) as error:
                stage.notes["asked"]["faults"].append(str(error))

    def state(self):
        return State(records={"said": "a text"})

    def load_state(self, state):
        assert state.records == {"said": "a text"}
'''


def stage(bench: Bench, method: str, number: int) -> Path:
    (found,) = (bench.results / method / "seed-1").glob(f"stage-{number}-*")
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_what_is_scored_is_what_was_saved(bench: Bench) -> None:
    (bench.root / "asks.py").write_text(ASKS)
    bench.write_config(
        methods=["sft", {"name": "ties", "density": 0.3}, {"file": "asks.py"}],
        eval={"trace": {"limit": 3}, "general": {"tasks": ["piqa"], "limit": 2}},
    )
    bench.must("run", "tiny.yaml")
    first, second = (stage(bench, "ties", number) for number in (1, 2))
    for number in (1, 2):
        plain = weights(stage(bench, "sft", number) / "checkpoint")
        own = weights(stage(bench, "ties", number) / "checkpoint")
        assert all(torch.equal(own[name], value) for name, value in plain.items())
    base = weights(bench.root / "model")
    ends = [weights(folder / "checkpoint") for folder in (first, second)]
    merged = weights(second / "scored")
    for name, value in base.items():
        entries = [end[name].flatten().tolist() for end in ends]
        expected = torch.tensor(ties(value.flatten().tolist(), entries, 0.3)).view_as(value)
        assert torch.allclose(merged[name], expected, rtol=0, atol=1e-7), name
    recorded = scores_of(second)
    assert recorded["scored"] == sha256_file(second / "scored" / "manifest.json")
    assert "scored" not in scores_of(stage(bench, "sft", 2))
    assert json.loads((second.parent / "run.json").read_text())["keeps"] == ["weights"]

    (row,) = [r for r in bench.report().splitlines() if r.startswith("| ties") and "weights" in r]
    assert row.split("|")[2].strip() == "weights"

    (second / "scores.json").unlink()  # killed between training and scoring
    away = second / "away"
    (second / "scored").rename(away)
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and f"{second.name}/scored: the model that is scored is missing" in err, err
    shutil.copytree(second / "checkpoint", second / "scored")
    code, _, err = bench.run("run", "tiny.yaml")
    assert code == 1 and "not the model that was saved here" in err, err
    shutil.rmtree(second / "scored")
    away.rename(second / "scored")
    bench.must("run", "tiny.yaml")
    assert scores_of(second) == recorded
    bench.must("eval", "--stage", "2", "--method", "ties")
    (again,) = (second / "evals").glob("*/scores.json")
    assert scores_of(again.parent)["trace"] == recorded["trace"]
    assert scores_of(again.parent)["probes"] == recorded["probes"]

    for gone in (second, first / "checkpoint", first / "scored"):  # stage 1 has to be trained again
        shutil.rmtree(gone)
    bench.must("run", "tiny.yaml")
    assert scores_of(second) == recorded and (first / "scored" / "model.safetensors").is_file()
    assert not (first / "retrained.json").exists()
    what_a_stage_offers(bench)


def what_a_stage_offers(bench: Bench) -> None:
    for number in (1, 2):
        folder = stage(bench, "asks", number)
        notes = json.loads((folder / "notes.json").read_text())["asked"]
        assert Path(notes["folder"]).parent == folder and not Path(notes["folder"]).exists()
        assert notes["other"] == [f"{i} + 1\nAnswer:" for i in range(12)]
        assert notes["right"] == 1.0 and notes["wrong"] == 0.0 and notes["base"] is True
        assert len(notes["text"]) == 1
        unknown, late, *made = notes["faults"]
        assert len(made) == 2 and all("no row of" in fault for fault in made)
        assert "no task of this config (did you mean" in unknown
        assert f"stage.weights({number}): before this stage ({number}) there are 0" in late
        assert json.loads((folder / "method.json").read_text()) == {"asks/said": "a text"}
        assert "method.json" in json.loads((folder / "trained.json").read_text())["files"]

    experiment = resolve_file("tiny.yaml")
    library = RunLibrary(
        SimpleNamespace(config=experiment.config),  # type: ignore[arg-type]
        experiment.runs[0],
        RunFolder(bench.results / "sft" / "seed-1"),
        1,
        [],
    )
    saved = weights(stage(bench, "sft", 1) / "checkpoint")
    found = library.weights(1)  # by loading the model: no names are given
    assert all(torch.equal(found[name], saved[name]) for name in found) and len(found) > 20
    shutil.rmtree(stage(bench, "sft", 1) / "checkpoint")
    with pytest.raises(RunError, match="checkpoint is not there any more, and the method needs"):
        library.weights(1)

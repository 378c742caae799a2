"""What a stage's training left: checked where there is a record of it, said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl_bench.errors import RunError
from cl_bench.experiment.stage_files import check_done, check_training, record_training
from cl_bench.models.bases import recorded_base
from cl_bench.store.folders import StageFolder, publish_folder, write_json
from cl_bench.store.partial import finish_scores
from cl_bench.store.seals import file_records


@pytest.fixture
def place(tmp_path: Path) -> StageFolder:
    """A trained and scored stage."""
    stage = StageFolder(tmp_path / "stage-1-a")
    half = stage.path / ".checkpoint.tmp"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"weights")
    write_json(half / "base.json", {"base": "../../model"})
    (stage.path / "train.jsonl").write_text('{"step": 1}\n')
    left = file_records(stage.path, ["train.jsonl"])
    publish_folder(half, stage.checkpoint, lambda mark: record_training(stage, mark, None, left))
    finish_scores(stage.path, {"trace": {}, "general": {}})
    return stage


def test_a_record_that_was_there_has_to_stay(place: StageFolder) -> None:
    assert check_training(place) is None
    check_done(place)
    place.training_file.unlink()
    for check in (check_training, check_done):
        with pytest.raises(RunError, match=r"trained\.json: missing; restore"):
            check(place)


def test_a_stage_without_a_record_is_said(place: StageFolder) -> None:
    place.training_file.unlink()
    place.scores_file.unlink()  # whose list of files says that there was one
    line = check_training(place)
    assert line is not None and line.startswith(f"{place.training_file}: not there (of an older")


def test_a_changed_manifest_is_named(place: StageFolder) -> None:
    (place.checkpoint / "manifest.json").write_text("{}")
    for check in (check_training, check_done):
        with pytest.raises(RunError, match=r"manifest\.json: not that of the checkpoint"):
            check(place)


@pytest.mark.parametrize("text", ["[]", "{}", '{"base": 1}', "", "{"])
def test_what_an_adapter_belongs_to_is_read_or_the_file_is_named(
    place: StageFolder, text: str
) -> None:
    assert recorded_base(place.checkpoint) == (place.checkpoint / "../../model").resolve()
    (place.checkpoint / "base.json").write_text(text)
    with pytest.raises(RunError, match=r"base\.json: .*restore it from a copy"):
        recorded_base(place.checkpoint)

"""`cl-bench export`: the model after a stage as an ordinary folder, whatever it is stored as."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.errors import UserError
from cl_bench.experiment.model_card import model_card
from cl_bench.experiment.stage_files import check_training, checkpoint_fault, model_to_score
from cl_bench.models.bases import adapter_base
from cl_bench.models.deltas import write_whole
from cl_bench.models.load import resolve_model_path, split_revision
from cl_bench.store.experiments import read_run
from cl_bench.store.file_errors import writing
from cl_bench.store.folders import RunFolder, stage_number, verify_folder

ADAPTER = "adapter_config.json"
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written."""

    stage: int
    base: str | None
    """What an adapter belongs to: a hub name, or a folder; None for a whole model."""


def export(run: RunFolder, stage: int | None, target: Path, merge: bool = False) -> Exported:
    """Write the model that a stage's scores are of (default: of the last one) into a new folder.

    A whole model as transformers reads it, or an adapter as PEFT does, which names its base by its
    hub name where it has one; with `merge` the adapter is merged into the weights of its base, in
    the run's dtype. Every byte is checked before `target` has its name. A card (README.md) says
    what it was trained on. Raises UserError where there is no such stage or its weights are gone,
    for an adapter that cannot be merged, and where `target` exists; RunError where files are
    damaged.
    """
    if target.exists():
        raise UserError(f"{target}: exists already; name a new folder")
    places = {stage_number(one.path.name): one for one in run.stages()}
    if stage is None and places:
        stage = max(places)
    if stage is None or stage not in places:
        raise UserError(f"{run.path}: no stage {stage or 1} here yet (there: {sorted(places)})")
    place = places[stage]
    if fault := checkpoint_fault(run, place):
        raise UserError(fault)
    check_training(place)
    saved = model_to_score(place)
    verify_folder(saved)
    base = adapter_base(saved)
    if merge and base is None:
        raise UserError(f"{saved}: holds a whole model, with nothing to merge: leave out --merge")
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    config = read_run(run.path / "run.json")["config"]
    kind = "model"
    if merge:
        kind = "merged"
        _write_merged(saved, temporary, config["model"]["dtype"])
    else:
        write_whole(saved, temporary)
        if base is not None:
            kind = "adapter" if (temporary / ADAPTER).is_file() else "functions"
    if kind == "adapter" and base is not None:
        base = _name_base(temporary / ADAPTER, base)
    with writing(target / CARD):
        card = model_card(run, stage, kind, _hub_name(config["model"]))
        (temporary / CARD).write_text(card, encoding="utf-8")
    temporary.replace(target)
    return Exported(stage, None if merge else base)


def _write_merged(saved: Path, target: Path, dtype: str) -> None:
    import torch

    from cl_bench.models.checkpoints import load_checkpoint

    model, tokenizer = load_checkpoint(saved, dtype, torch.device("cpu"), adapters=False)
    with writing(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


def _name_base(file: Path, base: str) -> str:
    """Have an adapter name its base as PEFT can find it: by hub name and revision, or its folder.

    Returns that name.
    """
    name, revision = split_revision(str(resolve_model_path(base)))
    content = json.loads(file.read_text(encoding="utf-8"))
    content |= {"base_model_name_or_path": name, "revision": revision}
    with writing(file):
        file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return name


def _hub_name(model: dict[str, str | None]) -> str | None:
    """The hub name that a run's model was given by, with its revision; None for a folder."""
    path, revision = str(model["path"]), model.get("revision")
    if path == QUICKSTART_MODEL or path.startswith((".", "/")):
        return None
    return path if revision is None else f"{path}@{revision}"

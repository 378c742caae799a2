"""How far each stage moved the weights of each layer, from the checkpoints that are still there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_bench.config.schema import ModelConfig
from cl_bench.costs.model_shapes import model_file
from cl_bench.errors import RunError, UserError
from cl_bench.models.bases import adapter_base
from cl_bench.models.deltas import StoredTensors
from cl_bench.models.places import numbered_layers
from cl_bench.models.saved_weights import SavedWeights
from cl_bench.results.selections import place_of
from cl_bench.store.folders import RunFolder, StageFolder, located
from cl_bench.store.seals import read_scores


def changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """|dW| / |W| of every layer (Frobenius norms over all its parameters), float64."""
    moved: dict[str, float] = defaultdict(float)
    size: dict[str, float] = defaultdict(float)
    for name in after:
        if name not in before:
            continue
        old, new = before[name].double(), after[name].double()
        layer = place_of(name)[0] or "outside of layers"
        moved[layer] += float((new - old).square().sum())
        size[layer] += float(old.square().sum())
    order = sorted(size, key=lambda layer: (not layer.isdecimal(), layer.zfill(6)))
    return {layer: (moved[layer] / size[layer]) ** 0.5 for layer in order if size[layer]}


def run_changes(
    run: RunFolder, config: Mapping[str, Any]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """By stage `changes` against where it began, and why others are missing.

    `config`: that of `run.json`, which says from what each stage starts.
    """
    found: dict[str, dict[str, float]] = {}
    missing: list[str] = []
    stages = {int(s.path.name.split("-")[1]): s for s in run.stages()}
    for number, stage in stages.items():
        record = config["stages"][number - 1] if number <= len(config["stages"]) else {}
        from_base = number == 1 or record.get("start") == "base"
        try:
            after = _weights(stage)
            before = _base(run, config) if from_base else _weights(stages[number - 1])
            if _layers(before) != _layers(after):
                raise RunError("it has other layers than the one before, and so other numbers")
            found[stage.path.name] = changes(before, after)
        except (RunError, UserError) as error:
            missing.append(f"{stage.path.name}: {str(error).splitlines()[0]}")
    return found, missing


def _layers(weights: SavedWeights) -> set[int]:
    return set(numbered_layers(weights).values())


def _weights(stage: StageFolder) -> SavedWeights:
    if not stage.trained:
        raise RunError(f"{stage.checkpoint} is not there any more")
    if adapter_base(stage.checkpoint) is not None:
        raise RunError("an adapter, whose base does not move")
    return _saved(stage.checkpoint)


def _base(run: RunFolder, config: Mapping[str, Any]) -> SavedWeights:
    """The base model where it lies on this machine; nothing is fetched."""
    given = dict(config["model"])
    given["path"] = located(str(given["path"]), run.path.parents[1].resolve())
    model = ModelConfig.model_validate(given)
    for name in ("model.safetensors", "model.safetensors.index.json"):
        file = model_file(model, name)
        if file is not None:
            return _saved(file.parent)
    raise RunError(f"the base model {model.source} is not on this machine")


def _saved(folder: Path) -> SavedWeights:
    names = StoredTensors(folder).names
    if not names:
        raise RunError(f"{folder} has no safetensors")

    def never() -> Any:
        raise RunError(f"{folder}: not all weights are there")

    return SavedWeights(folder, names, torch.float32, never)


def forgotten(run: RunFolder) -> dict[str, tuple[float | None, float | None]]:
    """By stage how far the earlier tasks' mean and General fell while it was trained (0 to 1).

    Against the row before, and General of the first stage against the base model's. None where
    either is not measured.
    """
    found: dict[str, tuple[float | None, float | None]] = {}
    before: dict[str, Any] | None = None
    base = run.path.parents[1] / "base"
    general = _mean(read_scores(base)) if (base / "scores.json").is_file() else None
    for stage in run.stages():
        if not stage.scored:
            before = general = None
            continue
        scores = read_scores(stage.path)
        old = _values(before) if before else {}
        now = _values(scores)
        shared = [task for task in old if task in now]
        lost = sum(old[task] - now[task] for task in shared) / len(shared) if shared else None
        mean = _mean(scores)
        fell = general - mean if general is not None and mean is not None else None
        found[stage.path.name] = lost, fell
        before, general = scores, mean
    return found


def _values(scores: Mapping[str, Any]) -> dict[str, float]:
    return {t: e["score"] for t, e in scores["trace"].items() if e.get("score") is not None}


def _mean(scores: Mapping[str, Any]) -> float | None:
    mean = scores["general"].get("mean")
    return None if mean is None else float(mean)

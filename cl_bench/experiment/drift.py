"""`cl-bench inspect --drift`: hidden states of the stages' models on fixed texts, by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_bench.errors import UserError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.probes.hidden_states import Drift, drift, hidden_states
from cl_bench.evaluation.probes.kl import MAX_TOKENS, Text, read_texts, sample_texts
from cl_bench.evaluation.sampling import DOCUMENT_SEED
from cl_bench.evaluation.suite import Suite, load_suite
from cl_bench.experiment.rescore import recorded_experiment
from cl_bench.experiment.stage_files import checkpoint_fault, model_to_score
from cl_bench.models.checkpoints import load_checkpoint
from cl_bench.models.load import load_model, resolve_model_path
from cl_bench.scores.sequence import Recorded
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder

TEXTS = 32
"""Prompts of scored documents: as many of every benchmark of General and of every stage task."""
POSITIONS = 32
"""Of each, drawn by a fixed seed; its first token is left out."""


@dataclass(frozen=True)
class StageDrift:
    """Of one stage by layer: from the base model, and from the model that the stage began with."""

    from_base: Sequence[Drift]
    from_before: Sequence[Drift]


@dataclass(frozen=True)
class Drifts:
    """Of all runs, by run and stage, on how many positions of which texts."""

    documents: Mapping[str, int]
    """How many texts of each task."""
    positions: int
    runs: Mapping[Path, Mapping[str, StageDrift]]
    """By the run's folder and the name of the stage's."""


def measure_drift(folder: Path, runs: Sequence[RunFolder]) -> Drifts:
    """Load the base model and every stage's that is scored, one after the other.

    Raises UserError, before any model is loaded, with every checkpoint that is not there any more.
    """
    faults = [
        f"{run.path.parent.name}, {run.path.name}: --drift: {fault}"
        for run in runs
        for stage in run.stages()
        if (fault := checkpoint_fault(run, stage)) is not None
    ]
    if faults:
        raise UserError(faults)
    experiment = recorded_experiment(folder)
    config = experiment.config
    suite = load_suite(experiment, Engine("cl-bench"), allow_code=True)  # nothing is generated
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = resolve_model_path(config.model.source)
    base, tokenizer = load_model(path, config.model.dtype, str(device))
    texts = fixed_texts(suite, base, tokenizer)
    kept = [text for own in texts.values() for text in own]
    if not kept:
        raise UserError(f"{folder}: --drift: no task of it has prompts of its own")
    of_base = hidden_states(base, kept)
    del base
    found = {run.path: _run_drift(run, kept, of_base, config.model.dtype, device) for run in runs}
    counts = {task: len(own) for task, own in texts.items() if own}
    return Drifts(counts, len(of_base[0]), found)


def fixed_texts(suite: Suite, model: Any, tokenizer: Any) -> dict[str, list[Text]]:
    """By benchmark and stage task: prompts of some of the documents that the experiment scores."""
    pools = {
        name: {leaf: suite.documents[leaf] for leaf in members}
        for name, members in suite.general.items()
    }
    pools |= {name: {name: suite.documents[name]} for name in suite.columns}
    owner = {leaf: name for name, leaves in pools.items() for leaf in leaves}
    most = min(MAX_TOKENS, getattr(model.config, "max_position_embeddings", None) or MAX_TOKENS)
    found: dict[str, list[Text]] = {}
    for leaf, documents in sample_texts(pools, TEXTS, DOCUMENT_SEED).items():
        texts = read_texts(suite.leaves[leaf], documents, tokenizer, POSITIONS, DOCUMENT_SEED, most)
        own = [replace(text, positions=_behind_first(text)) for text in texts.values()]
        found.setdefault(owner[leaf], []).extend(text for text in own if text.positions)
    return found


def _behind_first(text: Text) -> tuple[int, ...]:
    """Without the first token: its state is the same in every text, and in many models so large
    that it would be all that a mean shows.
    """
    return tuple(position for position in text.positions if position)


def _run_drift(
    run: RunFolder,
    texts: Sequence[Text],
    of_base: Sequence[Tensor],
    dtype: str,
    device: torch.device,
) -> dict[str, StageDrift]:
    stages = {one.folder: one for one in Recorded.all_of(read_run(run.path / "run.json")["config"])}
    before, found = of_base, {}
    for stage in run.stages():
        recorded = stages.get(stage.path.name)
        model, _ = load_checkpoint(model_to_score(stage), dtype, device, adapters=True)
        states = hidden_states(model, texts)
        del model
        if len(states) != len(of_base):
            raise UserError(
                f"{stage.path}: --drift: its model has {len(states) - 1} layers and the base model "
                f"{len(of_base) - 1}: which of them correspond is not known"
            )
        start = of_base if recorded is not None and recorded.start == "base" else before
        found[stage.path.name] = StageDrift(drift(of_base, states), drift(start, states))
        before = states
    return found

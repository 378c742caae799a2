"""What a run leaves on disk: `cl-bench plan` shows these figures, `cl-bench run` checks them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cl_bench.config.evaluation import EvalConfig
from cl_bench.config.intervals import NEVER
from cl_bench.config.schema import ExperimentConfig
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.total import Total
from cl_bench.evaluation.answer_limits import own_limit
from cl_bench.experiment.workload import Workloads, stage_total
from cl_bench.methods.spec import Experiment, RunSpec
from cl_bench.store.folders import RunFolder, there
from cl_bench.store.seals import read_scores

if TYPE_CHECKING:
    from cl_bench.evaluation.suite import Suite
    from cl_bench.evaluation.units import Unit

RECORD_BYTES = 400
"""Estimate of a document's lines in predictions/, with its probes and without its answer."""
TOKEN_BYTES = 4
"""Estimate of a generated token in UTF-8."""
_DEFAULT_NEW_TOKENS = 256  # lm-eval's, where a task's YAML has no max_gen_toks


def reference_bytes(
    evaluation: EvalConfig, shapes: Shapes, columns: int, general: bool = True
) -> int:
    """base/kl/ at most: the base model's distributions in float32; 0 where none are kept.

    On so many stage tasks, and on General unless it is not scored.
    """
    probes = evaluation.probes
    if probes is None:
        return 0
    vocabulary = max((shapes.parameters[name][0] for name in shapes.embeddings), default=0)
    texts = columns * probes.kl_task_texts
    if general and evaluation.general.after != "never" and evaluation.general.tasks:
        texts += probes.kl_texts
    return 4 * vocabulary * texts * probes.kl_positions


def prediction_bytes(units: Iterable[Unit]) -> int:
    """Estimate of what one scoring of `units` writes to predictions/: every answer is as long as
    it may be.
    """
    return sum(
        len(unit.documents[name]) * (RECORD_BYTES + TOKEN_BYTES * _new_tokens(unit, name))
        for unit in units
        for name in unit.tasks
    )


def _new_tokens(unit: Unit, name: str) -> int:
    task = unit.tasks[name]
    if task.OUTPUT_TYPE != "generate_until":
        return 0
    cap = _DEFAULT_NEW_TOKENS if unit.train is None else unit.train.max_answer_tokens
    own = own_limit(task.config.generation_kwargs, cap)
    return own if unit.train is None else min(own, cap)


def missing_bytes(experiment: Experiment, suite: Suite, shapes: Shapes, folder: Path) -> int:
    """What the parts of the experiment in `folder` that are not done will leave there."""
    from cl_bench.experiment.pruned import to_train_again
    from cl_bench.experiment.space import kept_bytes

    config, needed = experiment.config, 0
    begun = there(folder / "base" / "scores.json")
    known = read_scores(folder / "base")["trace"] if begun else {}
    added = [name for name in experiment.base_columns if name not in known]
    workloads = Workloads(config, experiment.own)
    general = config.eval.general.after != "never" and not begun
    needed += prediction_bytes(suite.units(added, general, config.train))
    if suite.engine.in_memory:
        needed += reference_bytes(config.eval, shapes, len(added), general=not begun)
    for row in experiment.chosen_in_context:
        own = folder / row.folder
        known = read_scores(own)["trace"] if there(own / "scores.json") else {}
        lacking = [name for name in experiment.base_columns if name not in known]
        needed += prediction_bytes(suite.units(lacking, False, config.train))
    midway, more, at_most = [0], 0, 0
    for run in experiment.chosen:
        place = RunFolder(folder / run.slug / f"seed-{run.seed}")
        again = to_train_again(place, run.stages)
        totals = [stage_total(run, i, shapes, workloads) for i in range(len(run.stages))]
        sizes = stored_sizes(run, totals, config)
        here = {i for i, one in enumerate(run.stages) if place.stage(one.folder).trained}
        done = {i for i, one in enumerate(run.stages) if place.stage(one.folder).scored} | here
        left, most = kept_bytes(run.stages, sizes, config.keep, here, done - {*again})
        now = sum(sizes[i] for i in here)
        at_most = max(at_most, more + most - now)
        more += left - now
        for position, stage in enumerate(run.stages):
            stage_folder = place.stage(stage.folder)
            if position in again or not (stage_folder.trained or stage_folder.scored):
                cost = totals[position]
                written = cost.checkpoint if config.checkpoints == "delta" else 0
                midway.append(written + (0 if config.save_every == NEVER else 2 * cost.midway))
            if not stage_folder.scored:
                scored = stage.scored
                units = suite.units(scored.columns, scored.general, stage.train)
                needed += prediction_bytes(units)
    return needed + at_most + max(midway)


def stored_sizes(run: RunSpec, totals: Sequence[Total], config: ExperimentConfig) -> list[int]:
    """Bytes that each stage leaves: weights as the config stores them, and methods' states.

    Deltas at most; merges move entries that were not trained, so that nothing is saved with them.
    """
    found = []
    for position, (stage, cost) in enumerate(zip(run.stages, totals, strict=True)):
        merged = any(part.method.family == "merges" for part in stage.parts)
        whole = config.checkpoints == "full" or merged
        stages = 1 if config.keep == "all" else position + 1  # else it is the base model's delta
        found.append(cost.checkpoint if whole else min(cost.checkpoint, stages * cost.delta))
    return found

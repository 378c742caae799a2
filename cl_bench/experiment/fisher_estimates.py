"""`cl-bench inspect --fisher STAGE`: how far estimates of a stage's Fisher are from one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cl_bench.config.schema import TrainConfig
from cl_bench.data.examples import Example, training_examples
from cl_bench.errors import UserError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.suite import load_suite
from cl_bench.experiment.batcher import Batcher, batcher_of
from cl_bench.experiment.processes import Processes
from cl_bench.experiment.rescore import recorded_experiment
from cl_bench.experiment.stage_files import checkpoint_fault
from cl_bench.importance.batch_fisher import batch_scores
from cl_bench.importance.fisher import fisher_scores
from cl_bench.importance.threshold import thresholds
from cl_bench.models.checkpoints import load_checkpoint
from cl_bench.models.layouts import layouts
from cl_bench.models.load import load_model, resolve_model_path
from cl_bench.results.selections import Alike, Selections, masks_alike, scores_alike
from cl_bench.seeds import derive_seed
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import RunFolder
from cl_bench.training.selections import Kept

ALPHA = 0.7
"""Share of each matrix's rows that the masks freeze: FGGM's default."""


@dataclass(frozen=True)
class Estimate:
    """One estimate against that of every single one of the examples.

    `masks`: of the rows above the `ALPHA`-quantile of each matrix. `ranks`: rank correlation of the
    scores of rows.
    """

    what: str
    examples: int
    masks: Alike
    ranks: float


def fisher_estimates(folder: Path, run: RunFolder, number: int, most: int) -> list[Estimate]:
    """Of a stage's examples (a seeded sample of at most `most`) at the weights that it began with.

    The sums of parts of the examples are taken on the way to that of all: a second pass is made for
    batches alone. Raises UserError where the model or the stage is not there.
    """
    config = read_run(run.path / "run.json")["config"]
    record = next((one for one in config["stages"] if one["index"] == number), None)
    if record is None:
        raise UserError(f"{run.path}: --fisher {number}: it has no stage {number}")
    model, tokenizer = _began_with(folder, run, config, number, record["start"] == "base")
    train = TrainConfig.model_validate(record["train"])
    examples = _examples(folder, record, config["seed"], most)
    alone = Processes(0, 1, lambda tensor: None)
    batcher = batcher_of(model, tokenizer, train, next(model.parameters()).device, alone)
    return list(estimates(model, batcher, train, examples))


def estimates(
    model: Any, batcher: Batcher, train: TrainConfig, examples: Sequence[Example]
) -> Iterator[Estimate]:
    """Of nested parts of the examples (an eighth, a quarter, half), the other half, and batches."""

    def batches(part: Sequence[int]) -> Iterator[dict[str, Tensor]]:
        return batcher.share(train, [examples[i] for i in part], list(part))

    count = len(examples)
    ends = sorted({count // 8, count // 4, count // 2, count} - {0})
    scores: dict[str, Tensor] = {}
    parts: dict[int, dict[str, Tensor]] = {}
    for begin, end in zip((0, *ends), ends, strict=False):
        scores = fisher_scores(model, batches(range(begin, end)), "rows", onto=scores)
        parts[end] = {n: s.to(torch.float64, copy=True) for n, s in scores.items()}
    whole = parts.pop(count)
    reference = _masked(model, whole)

    def against(what: str, examples: int, scores: Mapping[str, Tensor]) -> Estimate:
        own = _masked(model, scores)
        ranks = scores_alike(reference, own, "rows").ranks or 0.0
        return Estimate(what, examples, masks_alike(reference, own, "rows"), ranks)

    for end, part in parts.items():
        yield against("per example", end, part)
    if half := parts.get(count // 2):
        rest = {name: whole[name] - score for name, score in half.items()}
        one, other = _masked(model, half), _masked(model, rest)
        ranks = scores_alike(one, other, "rows").ranks or 0.0
        masks = masks_alike(one, other, "rows")
        yield Estimate("per example, two halves", count // 2, masks, ranks)
    size = train.batch_size
    groups = (batches(range(at, min(at + size, count))) for at in range(0, count, size))
    found = batch_scores(model, groups, lambda tensor: None, "rows")
    yield against(f"batches of {size}", count, found)


def _masked(model: Any, scores: Mapping[str, Tensor]) -> Selections:
    """The rows of matrices that FGGM would train."""
    found = layouts(model)
    above = thresholds(scores, found, ALPHA, "tensor")
    return {
        name: Kept(
            "rows",
            tuple(model.get_parameter(name).shape),
            (score > above[name]).flatten().cpu(),
            {"rows": score.flatten().cpu()},
        )
        for name, score in scores.items()
        if found[name].is_matrix
    }


def _began_with(
    folder: Path, run: RunFolder, config: Mapping[str, Any], number: int, from_base: bool
) -> tuple[Any, Any]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = config["model"]["dtype"]
    if from_base or number == 1:
        path = recorded_experiment(folder).config.model.source
        return load_model(resolve_model_path(path), dtype, str(device))
    before = next((s for s in run.stages() if s.path.name.split("-")[1] == str(number - 1)), None)
    if before is None:
        raise UserError(f"{run.path}: --fisher {number}: stage {number - 1} is not there")
    if fault := checkpoint_fault(run, before):
        raise UserError(f"--fisher {number}: the model that the stage began with: {fault}")
    return load_checkpoint(before.checkpoint, dtype, device, adapters=False)


def _examples(folder: Path, record: Mapping[str, Any], seed: int, most: int) -> list[Example]:
    suite = load_suite(recorded_experiment(folder), Engine("cl-bench"), allow_code=True)
    tasks, given = record["tasks"], record["limit"]
    limits = given if isinstance(given, list) else [given] * len(tasks)
    found: list[Example] = []
    for task, limit in zip(tasks, limits, strict=True):
        found += training_examples(suite.stage_tasks[task], limit, seed)
    generator = torch.Generator().manual_seed(derive_seed(seed, record["index"], "estimates"))
    order = torch.randperm(len(found), generator=generator)[:most].tolist()
    if len(order) < 2:
        raise UserError(f"--fisher {record['index']}: one example has no estimates to compare")
    return [found[i] for i in order]

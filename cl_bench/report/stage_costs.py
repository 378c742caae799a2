"""What the runs of an experiment cost, as numbers: memory, disk, FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cl_bench.costs.activations import MicroBatch, activation_bytes, largest_micro_batch
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.training import Cost, full_cost
from cl_bench.methods.spec import RunSpec, StageSpec
from cl_bench.report.workload import Workload, Workloads


@dataclass(frozen=True)
class Work:
    """FLOPs of a stage: training, passes beside it, and what `sft` would need for training."""

    training: float
    scoring: float
    sft: float
    exact: bool

    @property
    def total(self) -> float:
        """Training and passes."""
        return self.training + self.scoring

    def __add__(self, other: Work) -> Work:
        return Work(
            self.training + other.training,
            self.scoring + other.scoring,
            self.sft + other.sft,
            self.exact and other.exact,
        )


@dataclass(frozen=True)
class StageCost:
    """One stage: bytes for its largest micro-batch; activations None where not known.

    `recomputed`: activations if gradient checkpointing were on (it may be).
    """

    cost: Cost
    batch: MicroBatch
    activations: int | None
    recomputed: int | None
    work: Work | None

    @property
    def total(self) -> int:
        """Bytes at the fullest moment, as far as they are known."""
        return self.cost.total + (self.activations or 0)


def stage_costs(run: RunSpec, shapes: Shapes, workloads: Workloads) -> list[StageCost]:
    """The cost of every stage of a run, in order."""
    return [
        _stage_cost(
            stage,
            shapes,
            workloads.of(stage.sets, stage.train),
            [workloads.of([one], stage.train) for one in run.earlier(position)],
        )
        for position, stage in enumerate(run.stages)
    ]


def _stage_cost(
    stage: StageSpec, shapes: Shapes, load: Workload | None, earlier: Sequence[Workload | None]
) -> StageCost:
    cost = stage.cost(shapes)
    batch = largest_micro_batch(stage.train)
    kept = recomputed = None
    if shapes.architecture is not None:
        recomputed = activation_bytes(shapes, cost, batch, checkpointing=True)
        kept = recomputed
        if not stage.train.gradient_checkpointing:
            kept = activation_bytes(shapes, cost, batch)
    return StageCost(cost, batch, kept, recomputed, _work(stage, cost, shapes, load, earlier))


def _work(
    stage: StageSpec,
    cost: Cost,
    shapes: Shapes,
    load: Workload | None,
    earlier: Sequence[Workload | None],
) -> Work | None:
    """FLOPs, where the number of examples of all that the stage sees is known."""
    seen_again = [one for one in earlier if one is not None] if cost.earlier_share else []
    if load is None or (cost.earlier_share and len(seen_again) < len(earlier)):
        return None
    tokens = load.all_tokens + sum(
        math.ceil(cost.earlier_share * one.examples) * one.tokens for one in seen_again
    )
    scoring = sum(
        one.flops(load.tokens) * min(load.examples, one.examples or load.examples) * load.tokens
        for one in cost.passes
    )
    return Work(
        training=stage.epochs * tokens * cost.flops_per_token,
        scoring=scoring,
        sft=stage.epochs * load.all_tokens * full_cost(shapes).flops_per_token,
        exact=load.exact and all(one.exact for one in seen_again),
    )

"""What the runs of an experiment cost, as numbers: memory, disk, FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cl_bench.costs.activations import MicroBatch, activation_bytes, largest_micro_batch
from cl_bench.costs.offload import held_total
from cl_bench.costs.shapes import Shapes
from cl_bench.costs.total import Total
from cl_bench.costs.trained import everything
from cl_bench.experiment.workload import Workload, Workloads, stage_total
from cl_bench.methods.spec import RunSpec, StageSpec


@dataclass(frozen=True)
class StageWork:
    """FLOPs of a stage: training, passes, generation, and what `sft` would need for training."""

    training: float
    scoring: float
    generation: float
    sft: float
    exact: bool

    @property
    def total(self) -> float:
        """Training, passes and generation."""
        return self.training + self.scoring + self.generation

    def __add__(self, other: StageWork) -> StageWork:
        return StageWork(
            self.training + other.training,
            self.scoring + other.scoring,
            self.generation + other.generation,
            self.sft + other.sft,
            self.exact and other.exact,
        )


@dataclass(frozen=True)
class StageCost:
    """One stage: bytes for its largest micro-batch; activations None where not known.

    `recomputed`: activations if gradient checkpointing were on (it may be). `split`: whether its
    weights, gradients and optimiser are, over the processes (`train.shard`).
    """

    cost: Total
    batch: MicroBatch
    activations: int | None
    recomputed: int | None
    work: StageWork | None
    split: bool = False

    @property
    def total(self) -> int:
        """Bytes at the fullest moment, as far as they are known."""
        return self.cost.memory + (self.activations or 0)


def stage_costs(
    run: RunSpec, shapes: Shapes, workloads: Workloads, processes: int = 1
) -> list[StageCost]:
    """The cost of every stage of a run, in order, for one of so many processes.

    FLOPs are those of all together.
    """
    return [
        _stage_cost(
            stage,
            held_total(
                stage_total(run, position, shapes, workloads), shapes, stage.train, processes
            ),
            shapes,
            workloads.of(stage.sets, stage.train),
            [workloads.of([one], stage.train) for one in run.earlier(position)],
        )
        for position, stage in enumerate(run.stages)
    ]


def _stage_cost(
    stage: StageSpec,
    cost: Total,
    shapes: Shapes,
    load: Workload | None,
    earlier: Sequence[Workload | None],
) -> StageCost:
    batch = largest_micro_batch(stage.train)
    kept = recomputed = None
    if shapes.architecture is not None:
        recomputed = activation_bytes(shapes, cost, batch, checkpointing=True)
        kept = recomputed
        if not stage.train.gradient_checkpointing:
            kept = activation_bytes(shapes, cost, batch)
    work = _work(stage, cost, shapes, load, earlier)
    return StageCost(cost, batch, kept, recomputed, work, stage.train.splitting)


def _work(
    stage: StageSpec,
    cost: Total,
    shapes: Shapes,
    load: Workload | None,
    earlier: Sequence[Workload | None],
) -> StageWork | None:
    """FLOPs, where the number of examples of all that the stage sees is known."""
    added = cost.added.work
    again = added.earlier or added.earlier_once
    seen_again = [one for one in earlier if one is not None] if again else []
    if load is None or (again and len(seen_again) < len(earlier)):
        return None

    def seen(share: float, others: int) -> float:
        """Tokens of a share of earlier examples, and of so many others."""
        shared = sum(math.ceil(share * one.examples) * one.tokens for one in seen_again)
        return others * load.tokens + shared

    tokens = load.all_tokens + seen(added.earlier, added.examples)
    once = seen(added.earlier_once, added.examples_once)
    scoring = sum(
        one.flops(load.tokens) * min(load.examples, one.examples or load.examples) * load.tokens
        for one in added.passes
    )
    return StageWork(
        training=(stage.epochs * tokens + once) * cost.flops_per_token,
        scoring=scoring,
        generation=cost.generation_flops,
        sft=stage.epochs * load.all_tokens * everything(shapes).flops_per_token,
        exact=load.exact and all(one.exact for one in seen_again),
    )

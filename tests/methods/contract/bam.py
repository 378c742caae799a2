"""Branch and merge (Alexandrov et al. 2024): train slices apart, average the weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from cl_bench.methods.base import Method, Options, Phase, Stage


class BranchAndMergeOptions(Options):
    branches: int = 2


class BranchAndMerge(Method[BranchAndMergeOptions]):
    """Every branch begins where the stage began; the stage ends with their mean."""

    name = "bam"

    def phases(self, stage: Stage) -> Iterator[Phase]:
        start, count = stage.snapshot(), self.options.branches
        ends = []
        for branch in range(count):
            yield Phase(stage.mixture[branch::count], stage.epochs, start=start)
            ends.append(stage.snapshot())
        stage.load({name: torch.stack([end[name] for end in ends]).mean(0) for name in start})

"""Scores of single entries of a matrix whose rows are split over processes.

Each process scores its own samples in all rows, of one layer at a time. What it has is summed over
the processes, and each keeps its rows: no process ever holds the scores of a whole model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cl_bench.importance.recorder import WeightRecorder
from cl_bench.training.sharding import group_of, own_part, rows_of


@dataclass(eq=False)
class SplitRecorder(WeightRecorder):
    """`scores` exist while a batch is scored; `split` [Dout, Din] has the sums, by rows."""

    split: Any = None
    turned: bool = False
    """Whether the scores are [Dout, Din] of a weight that is [Din, Dout]."""

    @classmethod
    def of(cls, plain: WeightRecorder, scores: Tensor, turned: bool) -> SplitRecorder:
        """As `plain`, whose scores are split."""
        return cls(plain.granularity, plain.batch, plain.grams, None, split=scores, turned=turned)

    def finish(self) -> None:
        """Adds what is pending to the rows that are here; every process calls it as often."""
        local = own_part(self.split)
        whole = local.new_zeros(self.split.shape)
        self.scores = whole.t() if self.turned else whole
        super().finish()
        world = dist.get_world_size(group_of(self.split))
        parts = [whole[slice(*rows_of(len(whole), i, world))].contiguous() for i in range(world)]
        self.scores = None
        own = torch.empty_like(local)
        dist.reduce_scatter(own, parts, group=group_of(self.split))
        local.add_(own)

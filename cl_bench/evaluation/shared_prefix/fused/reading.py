"""Logits of whole passes by fused layers: what log-likelihoods need, without anything decoded."""

from __future__ import annotations

import torch
from torch import Tensor

from cl_bench.evaluation.shared_prefix.cpu_twins import WORKERS
from cl_bench.evaluation.shared_prefix.fused.jobs import JobList, joined_ranges
from cl_bench.evaluation.shared_prefix.fused.layers import FusedLayers, Pass
from cl_bench.evaluation.shared_prefix.packed_model import Counters
from cl_bench.evaluation.shared_prefix.packing import Array, Pack, PackLayout, lay_out_in_one_row


class StoreReader:
    """A `Reader` on layers that are in place: the trunk is at the front of a store, and what a
    pass computes stands behind it."""

    def __init__(self, layers: FusedLayers, tokens: int, counters: Counters) -> None:
        """`tokens`: of the longest trunk and the pass on it."""
        self.layers, self.tokens, self.counters = layers, tokens, counters
        self.store = layers.store(tokens)

    def twin(self) -> StoreReader | None:
        """See `Reader`."""
        if torch.get_num_threads() % WORKERS:
            return None
        return StoreReader(self.layers, self.tokens, Counters())

    def lay_out(self, pack: Pack) -> PackLayout:
        """See `Reader`."""
        return lay_out_in_one_row(pack)

    def run(self, pack: Pack, layout: PackLayout, keep: Array) -> Tensor:
        """See `Reader`."""
        past, placed = pack.past, layout.placed
        jobs = JobList(self.layers.heads)
        for place in placed:
            above = [placed[i].columns for i in place.path]
            ranges = [(0, past), *((past + int(each[0]), len(each)) for each in above)]
            jobs.add_rows(int(place.columns[0]), len(place.columns), joined_ranges(ranges))
        self.counters.passes += 1
        self.counters.computed_tokens += layout.ids.size
        places = past + torch.arange(layout.ids.size)
        told = Pass(
            self.store, places * self.layers.heads.size, jobs.made(), torch.from_numpy(keep)
        )
        return self.layers.run(layout.ids[0], layout.positions[0], told)

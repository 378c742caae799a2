"""Passes computed for their logits alone, by the model's own layers or by others in their place."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor
from transformers import DynamicCache

from cl_bench.evaluation.shared_prefix.cpu_twins import twin_of
from cl_bench.evaluation.shared_prefix.packed_model import Counters, PackedModel, crop
from cl_bench.evaluation.shared_prefix.packing import Array, Pack, PackLayout, lay_out


class Reader(Protocol):
    """Runs passes one after the other, those of a trunk before what stands on it."""

    counters: Counters

    def twin(self) -> Reader | None:
        """One that runs passes without a trunk at the same time, on half of the threads."""
        ...

    def lay_out(self, pack: Pack) -> PackLayout:
        """Where the tokens of a pass stand."""
        ...

    def run(self, pack: Pack, layout: PackLayout, keep: Array) -> Tensor:
        """Logits [len(keep), vocab] in the model's dtype; `keep` indexes the flattened [B * T]."""
        ...


class ModelReader:
    """The model's own layers; a trunk's keys and values in a cache."""

    def __init__(self, model: PackedModel) -> None:
        self.model, self.counters = model, model.counters
        self.trunk = DynamicCache()

    def twin(self) -> ModelReader | None:
        """See `Reader`."""
        twin = twin_of(self.model.model)
        return None if twin is None else ModelReader(PackedModel(twin, Counters()))

    def lay_out(self, pack: Pack) -> PackLayout:
        """See `Reader`."""
        return lay_out(pack)

    def run(self, pack: Pack, layout: PackLayout, keep: Array) -> Tensor:
        """See `Reader`."""
        if pack.stands_alone:
            return self.model.run(layout, keep)
        crop(self.trunk, pack.past)
        return self.model.run(layout, keep, self.trunk)

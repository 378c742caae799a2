"""Slots whose sequences are decoded several steps at a time."""

from __future__ import annotations

from collections.abc import Sequence

from cl_bench.evaluation.shared_prefix.ahead.block import Block
from cl_bench.evaluation.shared_prefix.drawing import Drawing
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel
from cl_bench.evaluation.shared_prefix.slot_memory import Room, SlotMemory

NARROWEST = 128
"""Columns of the smallest block; wider ones have twice as many, and so on."""


class AheadMemory(SlotMemory):
    """A `Memory` that also takes steps ahead. Its slots are made once, as many as will be used."""

    def __init__(
        self,
        model: PackedModel,
        longest: Sequence[int],
        room: Room,
        drawing: Drawing | None = None,
    ) -> None:
        """As `SlotMemory`; `drawing`: how tokens are drawn, None: the argmax."""
        super().__init__(model, longest, room)
        self.drawing = drawing
        self.blocks: dict[tuple[int, int], Block] = {}

    def ahead(
        self, tokens: Sequence[int], held: Sequence[int], places: Sequence[tuple[int, int]], n: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        """`Block.run` of the running sequences; `places`: the request of each, and which of its
        new tokens comes first."""
        assert self.slots is not None, "sequences run in slots"
        rows = min(_doubled(1, len(tokens)), self.slots.count)
        width = min(_doubled(NARROWEST, max(held) + n), self.slots.columns)
        if (rows, width) not in self.blocks:
            temperature = None if self.drawing is None else self.drawing.temperature
            self.blocks[rows, width] = Block(self.model, self.slots, rows, width, temperature)
        draw = self.drawing
        points = (
            [] if draw is None else [[draw.point(r, p + i) for i in range(n)] for r, p in places]
        )
        return self.blocks[rows, width].run(tokens, held, n, points)

    def _reserve(self, slots: int, columns: int) -> None:
        super()._reserve(slots, columns)
        self.blocks.clear()  # they write where the slots were

    def _more(self, have: int, room: int) -> int:
        return room


def _doubled(least: int, needed: int) -> int:
    """The first of least, 2 least, 4 least, ... that is enough."""
    while least < needed:
        least *= 2
    return least

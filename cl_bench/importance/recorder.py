"""Turns recorded inputs and output gradients into Fisher scores, layer by layer in backward."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from cl_bench.importance.capture import NotBatchedError
from cl_bench.importance.products import Gram, add_elements, direct_rows, gram_is_cheaper
from cl_bench.training.cpu import matmul

Granularity = Literal["rows", "columns", "elements"]


@dataclass
class ScoredBatch:
    """The batch being scored: number of samples, and the sample of each answer token [N]."""

    samples: int = 0
    answers: Tensor | None = None


@dataclass
class GramCache:
    """The Gram matrix of the layer input seen last: layers that read the same input share it."""

    source: Tensor | None = None
    wide: Tensor | None = None
    gram: Gram | None = None
    readers: list[WeightRecorder] = field(default_factory=list)
    read: Tensor | None = None

    def forward(self, x: Tensor, reader: WeightRecorder) -> None:
        """Counts how many layers in a row read `x`."""
        self.readers = [*self.readers, reader] if _same(self.read, x) else [reader]
        self.read = x
        for other in self.readers:
            other.sharers = len(self.readers)

    def widened(self, x: Tensor) -> Tensor:
        """`x` widened; the widened tensor of the same `x` is used again."""
        if self.wide is None or not _same(self.source, x):
            self.source, self.wide, self.gram = x, matmul.widen(x), None
        return self.wide

    def of(self, wide: Tensor) -> Gram:
        """The Gram matrix of the inputs; computed anew for others than the last ones."""
        if wide is not self.wide:
            return Gram.of(wide)
        if self.gram is None:
            self.gram = Gram.of(wide)
        return self.gram

    def clear(self) -> None:
        """Lets go of the tensors."""
        self.source = self.wide = self.gram = self.read = None


def _same(known: Tensor | None, x: Tensor) -> bool:
    """Whether both are the same memory (the known one is held, so its address is not reused)."""
    return known is not None and known.data_ptr() == x.data_ptr() and known.shape == x.shape


@dataclass(eq=False)
class WeightRecorder:
    """Scores of one weight matrix [Dout, Din], whichever layers use it (head and embedding too).

    A weight used several times in a pass has one gradient per sample, the sum over its uses: they
    are joined along the positions before squaring. `scores` is added to in place; None where not
    asked for. `joint`: an embedding uses the weight too, so everything waits for the end.
    """

    granularity: Granularity
    batch: ScoredBatch
    grams: GramCache
    scores: Tensor | None = None
    joint: bool = False
    sharers: int = 1
    uses: int = 0
    pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    lookups: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def on_input(self, x: Tensor) -> None:
        """A linear layer is called with x, which must be [B, T, Din]."""
        if self.batch.samples != 1 and (x.dim() != 3 or x.shape[0] != self.batch.samples):
            raise NotBatchedError
        self.uses += 1
        self.grams.forward(x, self)

    def on_answers(self, x: Tensor) -> None:
        """The output layer is called with the hidden states of all answer tokens, [1, N, Din]."""
        self.uses += 1

    def on_ids(self, ids: Tensor) -> None:
        """An embedding is called with ids, which must be [B, T]."""
        if ids.shape[0] != self.batch.samples:
            raise NotBatchedError

    def on_gradient(self, x: Tensor, g: Tensor) -> None:
        """A linear layer's input and widened output gradient; scored when all uses are here."""
        if self.batch.samples == 1:
            x, g = x.reshape(1, -1, x.shape[-1]), g.reshape(1, -1, g.shape[-1])
        self._add(self.grams.widened(x), g)

    def on_answer_gradient(self, x: Tensor, g: Tensor) -> None:
        """The same of the output layer: answer tokens are packed by sample, zeros behind them."""
        rows, samples = self.batch.answers, self.batch.samples
        if rows is None:
            raise NotBatchedError
        counts = torch.bincount(rows, minlength=samples)
        place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
        widest, packed = int(counts.max()), []
        for value in (matmul.widen(x), g):
            target = value.new_zeros((samples, widest, value.shape[-1]))
            target[rows, place] = value.reshape(len(rows), -1)
            packed.append(target)
        self._add(packed[0], packed[1])

    def on_lookup(self, ids: Tensor, g: Tensor) -> None:
        """An embedding's ids [B, T] and output gradient [B, T, D]."""
        self.lookups.append((ids, matmul.widen(g)))

    def _add(self, x: Tensor, g: Tensor) -> None:
        self.pending.append((x, g))
        if len(self.pending) == self.uses and not self.joint:
            self.finish()

    def finish(self) -> None:
        """Adds the scores of what is pending (also when no gradient reached some of the uses)."""
        last: tuple[Tensor, Tensor] | None = None
        if self.pending:
            x, g = self.pending[0]
            if len(self.pending) > 1:
                x, g = (torch.cat(parts, 1) for parts in zip(*self.pending, strict=True))
            last = _active(x, g)
            self._add_linear(*last)
        if self.lookups and self.scores is not None:
            self._add_lookups(self.scores, last)
        self.reset()

    def reset(self) -> None:
        """Forgets what is pending."""
        self.pending, self.lookups, self.uses = [], [], 0

    def _add_linear(self, x: Tensor, g: Tensor) -> None:
        if self.scores is None or x.shape[1] == 0:
            return
        length, inner, outer = x.shape[1], x.shape[2], g.shape[2]
        if self.granularity == "elements":
            add_elements(self.scores, x, g)
        elif self.granularity == "rows":
            if gram_is_cheaper(length, inner, outer, self.sharers):
                self.scores += self.grams.of(x).diagonal_form(g)
            else:
                self.scores += direct_rows(x, g)
        elif gram_is_cheaper(length, outer, inner):
            self.scores += Gram.of(g).diagonal_form(x)
        else:
            self.scores += direct_rows(g, x)

    def _add_lookups(self, scores: Tensor, linear: tuple[Tensor, Tensor] | None) -> None:
        """Embedding gradient E per sample: adds E^2 and the cross term with the head, 2 P E."""
        ids = torch.cat([pair[0] for pair in self.lookups], 1)
        gradients = torch.cat([pair[1] for pair in self.lookups], 1).to(scores.dtype)
        for sample in range(len(ids)):
            rows, place = torch.unique(ids[sample], return_inverse=True)
            dense = gradients.new_zeros((len(rows), gradients.shape[2]))
            dense.index_add_(0, place, gradients[sample])
            added = dense.square()
            if linear is not None:
                x, g = (value[sample].to(scores.dtype) for value in linear)
                added.add_(dense.mul_(g[:, rows].t() @ x), alpha=2)
            if self.granularity == "columns":
                scores += added.sum(0)
            else:
                scores.index_add_(0, rows, added if scores.dim() == 2 else added.sum(1))


def _active(x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Without the positions where no sample has a gradient (last layer: all but answers).

    Only on the CPU, where looking costs no synchronisation.
    """
    if g.device.type != "cpu" or int((g[:, :, 0] == 0).all(0).sum()) * 8 < g.shape[1]:
        return x, g
    keep = (g != 0).any(2).any(0).nonzero().squeeze(1)
    if len(keep) * 8 > 7 * g.shape[1]:
        return x, g
    return x[:, keep], g[:, keep]

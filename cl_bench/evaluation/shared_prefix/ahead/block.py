"""Decoding steps of one shape, whose every input and result stays on the device.

A step reads the first slots up to a width, whoever runs in them, and nothing in it depends on a
number that the host would have to see: so it can be recorded once as a CUDA graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cl_bench.evaluation.finite import is_distribution
from cl_bench.evaluation.shared_prefix.drawing import tokens_at
from cl_bench.evaluation.shared_prefix.kv_slots import SlotCache
from cl_bench.evaluation.shared_prefix.packed_model import PackedModel

STEPS = 16
"""Steps before the host looks. What a text gets behind its end is thrown away: half of them, on
average, for each text."""
WARM_UPS = 2
"""Steps before a graph is recorded, as torch asks for."""


class Block:
    """Up to `STEPS` steps for the first `rows` slots, which see at most `width` columns each."""

    def __init__(
        self,
        model: PackedModel,
        slots: SlotCache,
        rows: int,
        width: int,
        temperature: float | None = None,
    ) -> None:
        """`temperature`: tokens are drawn at the points that `run` is given; None: the argmax."""
        self.model, self.slots, self.temperature = model, slots, temperature
        self.rows, self.width = rows, width
        device = model.device

        def numbers(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.long, device=device)

        self.tokens, self.held, self.number = numbers(rows), numbers(rows), numbers(1, 1)
        self.chosen, self.fine = numbers(rows, STEPS), numbers(rows, STEPS)
        self.points: Tensor | None = None
        if temperature is not None:
            self.points = torch.zeros(rows, STEPS, dtype=torch.float64, device=device)
        self.slot = torch.arange(rows, device=device)[:, None]
        self.columns = torch.arange(width, device=device)
        self.logits: Tensor | None = None
        """Of the last step, [rows, V]."""
        self._replay: Callable[[], None] | None = None

    def run(
        self,
        tokens: Sequence[int],
        held: Sequence[int],
        count: int = STEPS,
        points: Sequence[Sequence[float]] = (),
    ) -> tuple[list[list[int]], list[list[int]]]:
        """`count` tokens behind the last one of each running text, and whether each was picked
        from numbers; `held`: the tokens before its last one. The one time that the host waits."""
        self._put(tokens, held, points)
        if self._replay is None:
            self._replay = recorded(self.step, self.model.device)
            self._put(tokens, held, points)  # recording has taken steps
        for _ in range(count):
            self._replay()
        found = torch.stack([self.chosen, self.fine])[:, : len(tokens), :count].tolist()
        return found[0], found[1]

    def _put(
        self, tokens: Sequence[int], held: Sequence[int], points: Sequence[Sequence[float]]
    ) -> None:
        idle = [0] * (self.rows - len(tokens))  # slots that nobody runs in: column 0 is theirs
        self.tokens.copy_(torch.tensor([*tokens, *idle]))
        self.held.copy_(torch.tensor([*held, *idle]))
        self.number.zero_()
        if self.points is not None:
            given = torch.tensor([list(each) for each in points], dtype=torch.float64)
            self.points[: len(given), : given.shape[1]].copy_(given)

    def step(self) -> None:
        """One more token for every row."""
        # A text that has ended may go on beyond its slot: to what is thrown away.
        at = self.held.clamp(max=self.width - 1)[:, None]
        mask = torch.zeros(
            self.rows, self.width, dtype=self.model.model.dtype, device=self.model.device
        ).masked_fill_(self.columns > at, self.model.lowest)
        output: Any = self.model.model(
            input_ids=self.tokens[:, None],
            attention_mask=mask[:, None, None],
            position_ids=at,
            past_key_values=self.slots.first(self.slot, at, self.width),
            use_cache=True,
        )
        self.logits = logits = output.logits[:, -1]
        number = self.number.expand(self.rows, 1)
        if self.points is None or self.temperature is None:
            picked = logits.argmax(-1)
        else:
            points = self.points.gather(1, number)[:, 0]
            picked = tokens_at(logits, points, self.temperature)
        fine = is_distribution(logits, picked)
        self.chosen.scatter_(1, number, picked[:, None])
        self.fine.scatter_(1, number, fine.long()[:, None])
        self.tokens.copy_(picked)
        self.held.add_(1)
        self.number.add_(1)


def recorded(
    step: Callable[[], None], device: torch.device, cuda: Any = None
) -> Callable[[], None]:
    """A step as a CUDA graph, which replays it without Python; on other devices the step itself.

    It is taken `WARM_UPS` times, and must write to the same tensors whenever it is called.
    """
    if device.type != "cuda":
        return step
    cuda = cuda or torch.cuda
    beside = cuda.Stream()
    beside.wait_stream(cuda.current_stream())
    with cuda.stream(beside):
        for _ in range(WARM_UPS):
            step()
    cuda.current_stream().wait_stream(beside)
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay

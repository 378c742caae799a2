"""Examples as padded batches: each process's share, micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cl_bench.data.batches import collate, cut, for_process, micro_batches
from cl_bench.data.tokens import encode_examples, pad_id, padding
from cl_bench.experiment.processes import Processes
from cl_bench.models.positions import length_groups
from cl_bench.training.idle import IDLE, Idle

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from cl_bench.config.schema import TrainConfig
    from cl_bench.data.examples import Example
    from cl_bench.data.tokens import Encoded


@dataclass
class Batcher:
    """Turns examples into padded batches on the device, the same way for everything."""

    encode: Callable[[Sequence[Example]], list[Encoded]]
    pad_id: int
    padding: Mapping[str, Any]
    device: torch.device
    processes: Processes
    group: Callable[[int], int] | None = None
    """Numbers the lengths: unequal ones never share a micro-batch (`positions.LengthRule`)."""
    pieces: int = 1
    """Into how many each automatic micro-batch is cut, since memory did not suffice for it."""
    even: bool = False
    """Whether every process gets as many micro-batches, some of them perhaps idle."""

    def collate(
        self,
        encoded: Sequence[Encoded],
        numbers: Sequence[int] | None = None,
        idle: bool = False,
    ) -> dict[str, Tensor]:
        """Padded `input_ids`, `attention_mask`, `labels` [B, T]; with numbers `example` [B].

        One that is `idle` counts nothing (training/idle.py).
        """
        import torch

        batch: dict[str, Any] = dict(collate(encoded, self.pad_id, **self.padding))
        if numbers is not None:
            batch["example"] = torch.tensor(numbers, dtype=torch.int64)
        if idle:
            batch[IDLE] = torch.ones(1)
        return {
            name: value.to(self.device)
            for name, value in batch.items()
            if isinstance(value, torch.Tensor)
        }

    def share(
        self, train: TrainConfig, examples: Sequence[Example], numbers: Sequence[int]
    ) -> Iterator[dict[str, Tensor]]:
        """This process's part of `examples`, every example once, short ones together."""
        encoded = self.encode(examples)
        lengths = [len(item.input_ids) for item in encoded]
        order = sorted(range(len(encoded)), key=lambda i: (lengths[i], i))
        for micro in self.micro(train, order, lengths):
            idle = isinstance(micro, Idle)
            yield self.collate([encoded[i] for i in micro], [numbers[i] for i in micro], idle)

    def micro(
        self, train: TrainConfig, batch: Sequence[int], lengths: Sequence[int]
    ) -> list[list[int]]:
        """The micro-batches of `batch` that belong to this process."""
        parts = micro_batches(
            batch, lengths, train.micro_batch_size, train.micro_batch_tokens, self.group
        )
        own = for_process(parts, self.processes.rank, self.processes.world)
        if self.even:
            most = -(-len(parts) // self.processes.world)
            return own + [Idle(parts[0]) for _ in range(most - len(own))]
        if train.micro_batch_size != "auto" or self.pieces == 1:
            return own
        return [piece for part in own for piece in cut(part, self.pieces)]


def batcher_of(
    model: Any, tokenizer: Any, train: TrainConfig, device: torch.device, processes: Processes
) -> Batcher:
    """How the examples of a stage that is trained as `train` says become batches of a model."""

    def encode(examples: Sequence[Example]) -> list[Encoded]:
        limits = (train.max_prompt_tokens, train.max_answer_tokens)
        return encode_examples(examples, tokenizer, *limits, train.truncation)

    sides = padding(train.truncation)
    groups = length_groups(model.config, sides.get("multiple_of", 1))
    return Batcher(encode, pad_id(tokenizer), sides, device, processes, groups)

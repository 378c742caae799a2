"""Sequential training written out plainly: one sample at a time, dense gradients, torch's AdamW.

It shares with the package only the order of the data and the tokenised examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.config.schema import TrainConfig
from cl_bench.data.batches import epoch_batches
from cl_bench.data.examples import Example
from cl_bench.data.tokens import Encoded, encode_examples, pad_id
from cl_bench.evaluation.shared_prefix.texts import generate_texts
from cl_bench.experiment.batcher import Batcher
from cl_bench.experiment.loop import train_stage
from cl_bench.experiment.processes import Processes
from cl_bench.methods.base import Method, Stage
from tests.helpers.tiny import byte_tokenizer, tiny_model

Gradients = dict[str, Tensor]


def examples(task: str, count: int) -> list[Example]:
    """Pairs of different lengths, so that padding and accumulation matter."""
    return [
        Example(f"{task} {'x' * (i % 5)}{i}: ", f"{i * 7}{'y' * (i % 3)}", i, task, "generate")
        for i in range(count)
    ]


TRAIN = TrainConfig(
    lr=1e-3, batch_size=4, micro_batch_size=3, max_prompt_tokens=12, max_answer_tokens=4
)
OLD, NEW = examples("old", 6), examples("new", 9)


def model64(**options: object) -> nn.Module:
    """A tiny model in float64."""
    return tiny_model(dtype=torch.float64, **options)  # type: ignore[arg-type]


class _Norm64(nn.Module):
    """Llama's norm, which computes in float32, in float64."""

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.variance_epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (hidden * scale)


def all64(**options: object) -> nn.Module:
    """`model64` without float32 in its norms, for terms that are summed in another order there."""
    model = model64(**options)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, _Norm64(child))
    return model


def encode(items: Sequence[Example], train: TrainConfig) -> list[Encoded]:
    """Token ids as the package makes them."""
    return encode_examples(
        items,
        byte_tokenizer(),
        train.max_prompt_tokens,
        train.max_answer_tokens,
        train.truncation,
    )


def make_stage(
    model: nn.Module,
    items: Sequence[Example],
    train: TrainConfig,
    index: int = 1,
    earlier: Sequence[tuple[str, Sequence[Example]]] = (),
) -> tuple[Stage, Batcher]:
    """What the package's loop needs for one stage on one process."""
    alone = Processes(0, 1, lambda tensor: None)
    batcher = Batcher(
        lambda given: encode(given, train),
        pad_id(byte_tokenizer()),
        {},
        torch.device("cpu"),
        alone,
    )
    stage = Stage(
        index=index,
        task=items[0].task,
        seed=3,
        train=train,
        model=model,
        examples=list(items),
        earlier=list(earlier),
        device=torch.device("cpu"),
        share=lambda given, numbers: batcher.share(train, given, numbers),
        all_reduce=alone.all_reduce,
        tokenizer=byte_tokenizer(),
        writer=generate_texts,
    )
    return stage, batcher


def run_method(method: Method, stage: Stage, batcher: Batcher, epochs: int) -> list[dict[str, Any]]:
    """Train with the package; returns the lines of train.jsonl."""
    records: list[dict[str, Any]] = []
    stage.epochs = epochs
    train_stage(stage, method, batcher, lambda record, total: records.append(record))
    return records


def sample_loss(model: nn.Module, item: Encoded) -> Tensor:
    """Summed negative log-likelihood of one example's answer tokens; nothing is padded."""
    ids = torch.tensor([item.input_ids])
    logits = model(input_ids=ids).logits[0]
    total = logits.new_zeros(())
    for position in range(max(item.prompt_length, 1), len(item.input_ids)):
        row = logits[position - 1]
        total = total - torch.log_softmax(row, -1)[item.input_ids[position]]
    return total


def reference_training(
    model: nn.Module,
    items: Sequence[Example],
    train: TrainConfig,
    epochs: int,
    index: int = 1,
    before_step: Callable[[Gradients], None] = lambda gradients: None,
    trained: Sequence[str] | None = None,
    term: Callable[[Encoded], Tensor] | None = None,
    after_step: Callable[[], None] = lambda: None,
    make_optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    phase: int = 0,
) -> list[float]:
    """Train in place; `before_step` may change the gradients (before clipping). Returns losses.

    `term`: what an example adds to the sum over tokens that the loss is the mean of.
    """
    encoded = encode(items, train)
    parameters = {
        name: p for name, p in model.named_parameters() if trained is None or name in trained
    }
    optimiser = make_optimiser(
        parameters.values(), lr=train.lr, betas=train.betas, weight_decay=0.0
    )
    lengths = [len(item.input_ids) for item in encoded]
    orders = [
        epoch_batches(lengths, batch_size=train.batch_size, seed=3, stage=index, epoch=epoch)
        for epoch in range(1000 * phase, 1000 * phase + epochs)
    ]
    total, done, losses = sum(len(order) for order in orders), 0, []
    model.train()
    for order in orders:
        for batch in order:
            tokens = sum(
                len(encoded[i].input_ids) - max(encoded[i].prompt_length, 1) for i in batch
            )
            optimiser.zero_grad()
            loss = sum(sample_loss(model, encoded[i]) for i in batch) / tokens
            more = 0 if term is None else sum(term(encoded[i]) for i in batch) / tokens
            (loss + more).backward()
            losses.append(float(loss))
            gradients = {}
            for name, parameter in parameters.items():
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients[name] = parameter.grad
            before_step(gradients)
            torch.nn.utils.clip_grad_norm_(parameters.values(), train.max_grad_norm)
            for group in optimiser.param_groups:
                group["lr"] = train.lr * (1 - done / total)
            optimiser.step()
            after_step()
            done += 1
    model.eval()
    return losses


def fisher_loop(model: nn.Module, items: Sequence[Encoded]) -> Gradients:
    """Sum over examples of the squared gradient of the answer's log-likelihood, dense."""
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for item in items:
        model.zero_grad()
        sample_loss(model, item).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad.detach() ** 2
    model.zero_grad()
    return total


def weights(model: nn.Module) -> Gradients:
    """A copy of every parameter."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_close(found: Gradients, expected: Gradients, tolerance: float = 1e-9) -> None:
    """Every parameter within `tolerance`, absolute."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        difference = float((found[name] - value).abs().max())
        assert difference <= tolerance, f"{name}: {difference}"

"""How one run grows with the number of cards, on paper: the tables of docs/scaling.md.

    python benchmarks/scaling.py

FLOPs, bytes and messages are counted from shapes by the functions behind `cl-bench plan`; rates are
published or assumed (`CONSTANTS`). Nothing here was measured on a GPU, and none is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.activations import MicroBatch, activation_bytes, largest_micro_batch
from cl_bench.costs.model_shapes import known_models
from cl_bench.costs.offload import held_total
from cl_bench.costs.shapes import Shapes, decoder_shapes
from cl_bench.costs.total import Total, total
from cl_bench.methods.registry import method_class

LLAMA_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
"""Of meta-llama/Llama-3.1-70B's config.json."""
CARDS = (1, 2, 4, 8, 16, 32, 64)
FAR = (16, 32, 64)
METHODS = ("sft", "fggm")
TOKENS = 512
"""Of an example on average, prompt and answer."""
ANSWERS = 64
"""Of these, those of the answer, to which there are logits."""

FLOPS = 989e12
UTILISATION = 0.4
MEMORY = 80e9
IN_HOST, HOST = 450e9, 8
FAST, PLAIN = HOST * 50e9, 12.5e9
HOP = 20e-6
CONSTANTS = (
    ("card", "80 GB, 989 TFLOP/s dense in bfloat16", "published: NVIDIA, H100 SXM data sheet"),
    ("of these used", "40 %", "published for others' training: 38 to 43 % (Llama 3, 2407.21783)"),
    ("links in a host", "8 cards, 450 GB/s each way", "published: NVLink 4, 900 GB/s in both"),
    ("fast network", "400 GB/s a host each way", "published: DGX H100, 8 adapters of 400 Gb/s"),
    ("plain network", "12.5 GB/s a host each way", "published: one adapter of 100 Gb/s"),
    ("a step of a ring", "20 us", "assumed"),
)


@dataclass(frozen=True)
class Case:
    """A method on a model with the settings that a config has by default."""

    model: str
    shapes: Shapes
    method: str
    train: TrainConfig

    @property
    def cost(self) -> Total:
        """What `plan` counts of a stage that is not the first."""
        method = method_class(self.method)
        return total(method(method.options_type()), self.shapes, self.train.batch_size, 1)

    @property
    def micro(self) -> MicroBatch:
        """An average micro-batch."""
        examples = max(1, self.train.micro_batch_tokens // TOKENS)
        return MicroBatch(examples * TOKENS, TOKENS, examples * ANSWERS)

    @property
    def micro_batches(self) -> int:
        """Of an update, over all cards."""
        return -(-self.train.batch_size * TOKENS // self.micro.tokens)

    @property
    def most_activations(self) -> int:
        """Bytes, for the largest micro-batch that the settings allow."""
        return activation_bytes(
            self.shapes, self.cost, largest_micro_batch(self.train), checkpointing=True
        )

    def replicated(self) -> float:
        """Bytes a card holds where each has everything (DDP)."""
        return self.cost.memory + self.most_activations

    def sharded(self, cards: int) -> float:
        """Bytes of a card with `train.shard`, as `plan --processes` counts them (FSDP)."""
        train = self.train.model_copy(update={"shard": True})
        return held_total(self.cost, self.shapes, train, cards).memory + self.most_activations

    def compute(self, cards: int) -> float:
        """Seconds of an update: the card with the most micro-batches decides."""
        turns = -(-self.micro_batches // cards)
        recomputed = self.cost.base.forward_flops
        flops = turns * self.micro.tokens * (self.cost.flops_per_token + recomputed)
        return flops / (FLOPS * UTILISATION)

    def messages(self, cards: int) -> float:
        """Bytes that a card sends in an update with DDP: a sum of all gradients after backward."""
        return 2 * (cards - 1) / cards * self.cost.base.gradients

    def sharded_messages(self, cards: int) -> float:
        """The same with FSDP: weights twice and gradients once, for every turn."""
        turns = -(-self.micro_batches // cards)
        each = 2 * self.shapes.model_bytes + self.cost.base.gradients
        return turns * (cards - 1) / cards * each

    def seconds(self, cards: int, sharded: bool, network: float = FAST) -> float:
        """Of an update, with messages that nothing hides.

        Between hosts a sum goes over all adapters of a host at once, as NCCL's rings do.
        """
        if cards == 1:
            return self.compute(1)
        rate = IN_HOST if cards <= HOST else min(IN_HOST, network)
        sent = self.sharded_messages(cards) if sharded else self.messages(cards)
        a, turns = self.shapes.architecture, -(-self.micro_batches // cards)
        assert a is not None
        steps = (cards - 1) * (3 * a.layers * turns if sharded else 2)
        return self.compute(cards) + sent / rate + steps * HOP


def cases() -> Iterator[Case]:
    """Three models by two methods."""
    known = known_models()
    models: Mapping[str, Mapping[str, Any]] = {
        "Qwen2-1.5B": known["Qwen/Qwen2-1.5B"],
        "Qwen2-7B": known["Qwen/Qwen2-7B"],
        "Llama-3.1-70B": LLAMA_70B,
    }
    for name, config in models.items():
        shapes = decoder_shapes(config)
        assert shapes is not None
        for method in METHODS:
            yield Case(name, shapes, method, TrainConfig(gradient_checkpointing=True))


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def memory_rows() -> list[list[str]]:
    """GB a card; bold where that fits."""
    rows = []
    for case in cases():
        held = [case.replicated(), *(case.sharded(cards) for cards in CARDS[1:])]
        cells = [f"**{b / 1e9:.0f}**" if b <= MEMORY else f"{b / 1e9:.0f}" for b in held]
        rows.append([f"{case.model}, {case.method}", *cells])
    return rows


def time_rows(sharded: bool, network: float, numbers: tuple[int, ...] = CARDS) -> list[list[str]]:
    """Seconds of an update and what is left of one card's speed; `-` where it does not fit."""
    rows = []
    for case in cases():
        cells = []
        for cards in numbers:
            held = case.sharded(cards) if sharded else case.replicated()
            seconds = case.seconds(cards, sharded, network)
            share = case.compute(1) / seconds / cards
            cells.append(f"{seconds:.2f} ({share:.0%})" if held <= MEMORY else "-")
        if any(cell != "-" for cell in cells):
            rows.append([f"{case.model}, {case.method}", *cells])
    return rows


def message_rows() -> list[list[str]]:
    """GB that a card sends in an update on 8 cards, and how many messages that is."""
    rows = []
    for case in cases():
        a, turns = case.shapes.architecture, -(-case.micro_batches // 8)
        assert a is not None
        cost = case.cost
        rows.append(
            [
                f"{case.model}, {case.method}",
                f"{cost.flops_per_token / 1e9:.2f}",
                f"{case.compute(8):.2f}",
                f"{case.messages(8) / 1e9:.1f}",
                "1",
                f"{case.sharded_messages(8) / 1e9:.1f}",
                f"{3 * a.layers * turns}",
            ]
        )
    return rows


def page() -> str:
    """All tables."""
    cards = [str(number) for number in CARDS]
    constants = [list(row) for row in CONSTANTS]
    counted = ["", "GFLOP a token", "s of work", "DDP, GB", "messages", "FSDP, GB", "messages"]
    far = [str(number) for number in FAR]
    return "\n\n".join(
        [
            table(["what", "value", "where from"], constants).replace("---:", "---"),
            table(counted, message_rows()),
            table(["GB a card", "1, or DDP", *(f"FSDP, {n}" for n in cards[1:])], memory_rows()),
            table(["DDP", *cards], time_rows(False, FAST)),
            table(["FSDP", *cards], time_rows(True, FAST)),
            table(["DDP, plain network", *far], time_rows(False, PLAIN, FAR)),
            table(["FSDP, plain network", *far], time_rows(True, PLAIN, FAR)),
        ]
    )


if __name__ == "__main__":
    print(page())

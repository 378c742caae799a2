"""Bytes that autograd keeps between forward and backward, counted from shapes.

For decoders of Llama's kind, per token and layer: a norm keeps its input in float32, and the
normalised one where its weight is trained; the MLP keeps gate, activation and up; a layer whose
matrix is trained keeps its input. The last MLP keeps that for answers alone (last_mlp.py) if those
are at most half of the tokens. Torch's scaled dot-product attention keeps query, key, value and
its output, under padding also a mask and keys and values once per query head; ours for CPUs
(attention.py) keeps query, key and value, and one mask for all layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from cl_bench.config.schema import TrainConfig
from cl_bench.costs.shapes import Architecture, Shapes
from cl_bench.costs.total import Total


@dataclass(frozen=True)
class MicroBatch:
    """What goes through the model at once: tokens with padding, the longest example, answers."""

    tokens: int
    length: int
    answers: int
    padded: bool = True


def largest_micro_batch(train: TrainConfig) -> MicroBatch:
    """The most that `train:` lets through at once: examples as long as they may be.

    With `auto` it is `micro_batch_tokens`, or one example that is longer. Each example has
    `max_answer_tokens` answers and their EOS.
    """
    answer = train.max_answer_tokens + 1
    length = train.max_prompt_tokens + answer
    if train.micro_batch_size == "auto":
        tokens = max(length, min(train.micro_batch_tokens, train.batch_size * length))
    else:
        tokens = min(train.micro_batch_size, train.batch_size) * length
    return MicroBatch(tokens, length, -(-tokens * answer // length), padded=tokens > length)


def activation_bytes(
    shapes: Shapes,
    cost: Total,
    batch: MicroBatch,
    *,
    checkpointing: bool = False,
    on_cpu: bool = False,
    widened: bool = False,
) -> int:
    """Bytes kept for the backward pass of one micro-batch, with the gradient of its logits.

    Logits exist at answers only; their gradient is as large and made while all else is kept. With
    `checkpointing` one hidden vector a layer is kept, and one layer is whole at a time. `on_cpu`:
    attention is ours. `widened`: besides, products and attention run in float32 (CPUs without bf16
    units) and every linear layer keeps its input. Raises ValueError where the architecture is not
    known.
    """
    shapes = cost.base.grown or shapes
    a = shapes.architecture
    if a is None:
        raise ValueError("activations are known for Llama-like architectures only")
    count = _Counter(a, shapes.dtype_bytes, cost, batch, on_cpu or widened, widened)
    names = [f"model.layers.{i}." for i in range(a.layers)]
    layers = [count.layer(name) if i >= cost.base.lowest else 0 for i, name in enumerate(names)]
    if not checkpointing:
        layers[-1] -= count.left_out(names[-1])
    own = batch.tokens * cost.added.memory.per_token
    frozen_head = shapes.embeddings.isdisjoint(cost.base.inputs_kept)
    rest = count.head(widened or not frozen_head) + (count.mask() if count.own_attention else 0)
    if checkpointing:
        return (
            a.layers * batch.tokens * a.hidden * count.size + max(layers) + own // a.layers + rest
        )
    if frozen_head:  # nothing below the first norm is trained: it keeps no input
        rest -= batch.tokens * (4 * a.hidden + 4)
    return sum(layers) + own + rest


@dataclass(frozen=True)
class _Counter:
    """Bytes of the parts of a model; `size`: bytes of an entry in the run's dtype."""

    a: Architecture
    size: int
    cost: Total
    batch: MicroBatch
    own_attention: bool
    widened: bool

    def keeps_input(self, *matrices: str) -> bool:
        """Whether any of these layers needs its input in backward."""
        kept = self.cost.base.inputs_kept
        return self.widened or any(f"{name}.weight" in kept for name in matrices)

    def norm(self, name: str) -> int:
        """A token in a norm."""
        trained = f"{name}.weight" in self.cost.base.inputs_kept
        return 4 * self.a.hidden + 4 + self.size * self.a.hidden * trained

    def mask(self) -> int:
        """The mask of one layer; ours is bool."""
        entry = 1 if self.own_attention else self.size
        return entry * self.batch.tokens * self.batch.length if self.batch.padded else 0

    def attention(self, layer: str) -> int:
        """A token in attention itself, with the input of its output layer."""
        queries, keys = self.a.heads * self.a.head_dim, self.a.kv_heads * self.a.head_dim
        if self.own_attention:
            output = self.size * queries * self.keeps_input(f"{layer}self_attn.o_proj")
            return (4 if self.widened else self.size) * (queries + 2 * keys) + output
        keys = queries if self.batch.padded else keys
        return self.size * (2 * queries + 2 * keys) + 4 * self.a.heads

    def layer(self, layer: str) -> int:
        """All tokens in one layer."""
        a, size = self.a, self.size
        attention_in = self.keeps_input(*(f"{layer}self_attn.{name}_proj" for name in "qkv"))
        token = self.norm(f"{layer}input_layernorm") + self.norm(f"{layer}post_attention_layernorm")
        token += self.attention(layer) + size * a.hidden * attention_in + self.mlp(layer)
        return self.batch.tokens * token + (0 if self.own_attention else self.mask())

    def mlp(self, layer: str) -> int:
        """A token in an MLP."""
        kept_in = self.keeps_input(f"{layer}mlp.gate_proj", f"{layer}mlp.up_proj")
        inner = 3 + self.keeps_input(f"{layer}mlp.down_proj")
        return self.size * (self.a.hidden * kept_in + self.a.intermediate * inner)

    def left_out(self, layer: str) -> int:
        """What the MLP of the last layer does not keep: it sees answers alone (last_mlp.py)."""
        tokens, answers = self.batch.tokens, self.batch.answers
        if self.cost.added.memory.watched or 2 * answers > tokens:
            return 0
        return (tokens - answers) * self.mlp(layer)

    def head(self, trained: bool) -> int:
        """The last norm, and logits with their gradient."""
        entries = 2 * self.a.vocabulary + self.a.hidden * trained
        return (
            self.batch.tokens * self.norm("model.norm") + self.batch.answers * self.size * entries
        )

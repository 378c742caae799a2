"""How much a loss depends on each unit of a model's blocks: heads, inner neurons, outputs.

A unit's importance for an example is the size of the derivative of its loss by a factor of 1 on the
unit's output (Michel et al. 2019). Blocks are those of Llama and its relatives: attention that ends
in `o_proj`, and an MLP that ends in `down_proj`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cl_bench.errors import UserError

Batch = Mapping[str, Tensor]
KINDS = ("heads", "inner", "outputs")


@dataclass(frozen=True)
class Block:
    """A layer's attention and MLP, with their names in the model."""

    attention: tuple[str, Any]
    mlp: tuple[str, Any]
    heads: int
    head_size: int


def blocks(model: Any) -> list[Block]:
    """The model's layers. Raises UserError for a model whose layers are not like Llama's."""
    config = model.config.get_text_config()
    attention = _with(model, "q_proj", "k_proj", "v_proj", "o_proj")
    mlps = _with(model, "gate_proj", "up_proj", "down_proj")
    if not attention or len(attention) != len(mlps):
        raise UserError("the model's layers have no linear q_proj to o_proj and gate to down_proj")
    heads = config.num_attention_heads
    return [
        Block(one, other, heads, one[1].o_proj.in_features // heads)
        for one, other in zip(attention, mlps, strict=True)
    ]


def _with(model: Any, *parts: str) -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in model.named_modules()
        if all(isinstance(getattr(module, part, None), nn.Linear) for part in parts)
    ]


@dataclass
class Factors:
    """Factors of 1 [B, 1, units] on every unit's output, one for each example of a batch."""

    layers: list[Block]
    leaves: dict[str, list[Tensor]] = field(default_factory=dict)
    noise: Callable[[Tensor], Tensor] | None = None
    """Applied to what attention and MLP add to the hidden states."""

    def begin(self, examples: int, like: Tensor) -> None:
        """New factors for a batch."""
        self.leaves = {
            kind: [torch.ones(examples, 1, n, dtype=like.dtype, device=like.device) for n in sizes]
            for kind, sizes in self.sizes().items()
        }
        for leaf in self.flat():
            leaf.requires_grad_()

    def flat(self) -> list[Tensor]:
        """All of them, kind after kind."""
        return [leaf for kind in KINDS for leaf in self.leaves[kind]]

    def sizes(self) -> dict[str, list[int]]:
        """Units of each layer."""
        down = [block.mlp[1].down_proj for block in self.layers]
        return {
            "heads": [block.heads for block in self.layers],
            "inner": [layer.in_features for layer in down],
            "outputs": [layer.out_features for layer in down],
        }

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While open, the model's blocks multiply by the factors."""
        with ExitStack() as stack:
            for i, block in enumerate(self.layers):
                o_proj, down = block.attention[1].o_proj, block.mlp[1].down_proj
                for handle in (
                    o_proj.register_forward_pre_hook(self._heads(i)),
                    o_proj.register_forward_hook(self._noisy),
                    down.register_forward_pre_hook(self._inner(i)),
                    down.register_forward_hook(self._outputs(i)),
                ):
                    stack.callback(handle.remove)
            yield

    def _heads(self, i: int) -> Callable[..., Any]:
        def hook(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            size = self.layers[i].head_size
            return (args[0] * self.leaves["heads"][i].repeat_interleave(size, 2),)

        return hook

    def _inner(self, i: int) -> Callable[..., Any]:
        return lambda _, args: (args[0] * self.leaves["inner"][i],)

    def _outputs(self, i: int) -> Callable[..., Any]:
        return lambda _, args, y: self._noisy(_, args, y * self.leaves["outputs"][i])

    def _noisy(self, _: Any, args: Any, output: Tensor) -> Tensor:
        return output if self.noise is None else self.noise(output)


def importances(
    model: Any,
    batches: Iterable[Batch],
    loss: Callable[[Batch, Factors], Tensor],
    remaining: Callable[[Mapping[str, Tensor], Iterable[Batch]], Iterable[Batch]],
) -> dict[str, Tensor]:
    """For each kind [layers, units], float64: the sum over examples of the derivative's size.

    `loss(batch, factors)` is a sum over the batch's examples, made by the model while the factors
    are watching. The model must be in eval mode; its weights get no gradient. `remaining`: the
    batches that are not in the sums yet (`Stage.remaining`).
    """
    factors = Factors(blocks(model))
    device = next(model.parameters()).device
    total = {
        kind: torch.zeros(len(sizes), sizes[0], dtype=torch.float64, device=device)
        for kind, sizes in factors.sizes().items()
    }
    with factors.watching():
        for batch in remaining(total, batches):
            factors.begin(len(batch["input_ids"]), next(model.parameters()))
            found = torch.autograd.grad(loss(batch, factors), factors.flat())
            for place, gradient in enumerate(found):
                kind, layer = KINDS[place // len(factors.layers)], place % len(factors.layers)
                total[kind][layer] += gradient.double().abs().sum((0, 1))
    return total


def normalised(importance: Tensor) -> Tensor:
    """|tanh(z)| of [layers, units], z the distance from a layer's mean in standard deviations."""
    spread = importance.std(1, keepdim=True).clamp(min=torch.finfo(importance.dtype).tiny)
    return ((importance - importance.mean(1, keepdim=True)) / spread).tanh().abs()


def shares(model: Any, importance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """1 - importance as factors that broadcast over the parameters that make or read a unit.

    Heads: rows of q, k and v (a shared key or value for its most important head) and columns of o.
    Inner neurons: rows of gate and up. Outputs: rows of down. With their biases.
    """
    found: dict[str, Tensor] = {}
    parameters = dict(model.named_parameters())
    for i, block in enumerate(blocks(model)):
        heads, inner, outputs = (1 - importance[kind][i] for kind in KINDS)
        (at, attention), (within, _), size = block.attention, block.mlp, block.head_size
        groups = attention.k_proj.out_features // size
        shared = heads.view(groups, -1).amin(1)  # the largest importance is the smallest share
        found[f"{at}.o_proj.weight"] = heads.repeat_interleave(size)[None, :]
        rows = {
            f"{at}.q_proj": heads.repeat_interleave(size),
            f"{at}.k_proj": shared.repeat_interleave(size),
            f"{at}.v_proj": shared.repeat_interleave(size),
            f"{within}.gate_proj": inner,
            f"{within}.up_proj": inner,
            f"{within}.down_proj": outputs,
        }
        for name, share in rows.items():
            found[f"{name}.weight"] = share[:, None]
            if f"{name}.bias" in parameters:
                found[f"{name}.bias"] = share
    return found

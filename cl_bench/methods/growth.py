"""Layers that are added to a decoder of Llama's kind and change nothing until they are trained."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes

MARK = "added_layers"
"""In the model's config, and so in its config.json: the numbers of the layers that were added."""
_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def marked(model: Any) -> set[int]:
    """Numbers of the layers that were added to a model."""
    return set(getattr(model.config, MARK, ()))


def grown_layers(count: int, added: Collection[int], every: int) -> list[tuple[int, bool]]:
    """For each layer of the grown model: which one it is, or is the copy of, and whether a copy.

    `added`: which of the `count` layers were added before; they stay behind those they belong to,
    and the copy is of the last of them.
    """
    found, own = [], 0
    for layer in range(count):
        found.append((layer, False))
        own += layer not in added
        if own % every == 0 and layer + 1 not in added:
            found.append((layer, True))
    return found


def added_layers(
    layers: list[tuple[int, bool]], before: Collection[int]
) -> tuple[set[int], set[int]]:
    """Numbers in the grown model of all layers that were added, and of the new ones."""
    new = {number for number, (_, copied) in enumerate(layers) if copied}
    return new | {n for n, (old, copied) in enumerate(layers) if old in before}, new


def grow(model: Any, before: Collection[int], every: int) -> set[int]:
    """Adds layers to a model in place; returns the numbers of the new ones."""
    import copy

    from torch import nn

    decoder, config = model.model, model.config
    old = list(decoder.layers)
    order = grown_layers(len(old), before, every)
    layers = [copy.deepcopy(old[i]) if copied else old[i] for i, copied in order]
    added, new = added_layers(order, before)
    for number, layer in enumerate(layers):
        layer.self_attn.layer_idx = number
        if number in new:
            for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
                for parameter in last.parameters():
                    nn.init.zeros_(parameter)
    decoder.layers = nn.ModuleList(layers)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i, _ in order]
    setattr(config, MARK, sorted(added))
    return new


def grown_shapes(shapes: Shapes, layers: list[tuple[int, bool]]) -> Shapes:
    """Parameters in another order than the model's, which no figure depends on."""
    from dataclasses import replace

    parameters = {name: s for name, s in shapes.parameters.items() if layer_number(name) is None}
    for number, (old, _) in enumerate(layers):
        start = f"model.layers.{old}."
        own = {n: s for n, s in shapes.parameters.items() if n.startswith(start)}
        parameters |= {f"model.layers.{number}.{n.removeprefix(start)}": own[n] for n in own}
    architecture = shapes.architecture and replace(shapes.architecture, layers=len(layers))
    return replace(shapes, parameters=parameters, architecture=architecture)


def layer_number(name: str) -> int | None:
    """The layer of a parameter."""
    found = _LAYER.match(name)
    return int(found[1]) if found else None

"""HFT: half fine-tuning (Hui et al., ACL 2025, arXiv 2404.18466)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from cl_bench.errors import UserError
from cl_bench.methods.base import Method, Options, Stage
from cl_bench.models.places import is_norm, numbered_layers

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.models.layouts import Shape
    from cl_bench.training.update_plan import UpdatePlan

Unit = list[str]
"""Parameters that are frozen or trained together: a matrix and its bias, a norm's vectors."""


class HFTOptions(Options):
    """Options of half fine-tuning."""

    embeddings: Literal["frozen", "full"] = Field(
        "full", description="token embeddings and output head; the paper trains them"
    )


class HFT(Method[HFTOptions]):
    """In every stage a new random half of each category of each layer is frozen.

    Categories are those of the paper: two of the four matrices of attention, one or two of the
    three of the MLP, in turn from layer to layer, and half of the norms. They are told by names,
    for any model: the matrices of one module of a layer are a category, its norms are one, and so
    are other vectors; an odd number is halved up and down in turn. Which comes first is drawn (the
    paper does not say). Outside of the layers everything is trained: the last norm, and embeddings
    and head as `embeddings` says. The paper draws anew in every stage, so do we.
    """

    name = "hft"
    family = "parts"
    source = "Hui 2025, arXiv 2404.18466"

    def plan(self, stage: Stage) -> UpdatePlan:
        """The frozen half, drawn by seed and stage."""
        import torch

        from cl_bench.importance.fisher import scored_parameters
        from cl_bench.training.update_plan import Frozen, UpdatePlan

        shapes = {name: tuple(p.shape) for name, p in stage.model.named_parameters()}
        generator, frozen = stage.generator("hft"), set[str]()
        for layers in categories(shapes):
            turn = int(torch.randint(2, (), generator=generator))
            for i, units in enumerate(layers):
                order = torch.randperm(len(units), generator=generator).tolist()
                chosen = order[: _half(len(units), i + turn)]
                frozen.update(name for place in chosen for name in units[place])
        if self.options.embeddings == "frozen":
            frozen.update(shapes.keys() - scored_parameters(stage.model).keys())
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        trained = sum(size for name, size in sizes.items() if name not in frozen)
        stage.notes["trained_share"] = round(trained / sum(sizes.values()), 6)
        return UpdatePlan({name: Frozen() for name in frozen})

    def trains(self, shapes: Shapes) -> Trained:
        """Half of each category, counted with large and small matrices evenly among both halves.

        A stage may draw more of the large ones. Raises UserError for a model without layers.
        """
        from cl_bench.costs.trained import only

        frozen = set[str]()
        for layers in categories(shapes.parameters):
            for i, units in enumerate(layers):
                by_size = sorted(units, key=lambda unit: math.prod(shapes.parameters[unit[0]]))
                chosen = by_size[i % 2 :: 2] if len(units) % 2 else by_size[::2]
                frozen.update(name for unit in chosen for name in unit)
        if not frozen:
            raise UserError("hft: no layers of this model are known by their names")
        if self.options.embeddings == "frozen":
            frozen |= shapes.embeddings
        return only(shapes, lambda name: name not in frozen)


def _half(count: int, turn: int) -> int:
    return (count + turn % 2) // 2


def categories(shapes: Mapping[str, Shape]) -> Iterator[list[list[Unit]]]:
    """For each category its units in every layer that has some, layers in their order."""
    found: dict[tuple[str, str], dict[int, dict[str, Unit]]] = {}
    for name, number in numbered_layers(shapes).items():
        within = name.split(f".{number}.", 1)[1]
        stem = within.removesuffix(".weight").removesuffix(".bias").removesuffix("_bias")
        key = ("norms", "") if is_norm(name, shapes[name]) else ("rest", stem.rpartition(".")[0])
        found.setdefault(key, {}).setdefault(number, {}).setdefault(stem, []).append(name)
    for layers in found.values():
        yield from _by_kind([list(layers[number].values()) for number in sorted(layers)], shapes)


def _by_kind(layers: list[list[Unit]], shapes: Mapping[str, Shape]) -> Iterator[list[list[Unit]]]:
    """Units with a matrix, and those of vectors alone."""
    for matrices in (True, False):
        own = [
            [u for u in units if any(len(shapes[n]) > 1 for n in u) is matrices] for units in layers
        ]
        if kept := [units for units in own if units]:
            yield kept

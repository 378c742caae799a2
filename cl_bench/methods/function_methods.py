"""What methods have in common that train functions beside a model's layers, and nothing else."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from cl_bench.errors import RunError, UserError
from cl_bench.methods.base import Method, Stage
from cl_bench.models.kinds import DECODERS

if TYPE_CHECKING:
    from cl_bench.costs.shapes import Shapes
    from cl_bench.costs.trained import Trained
    from cl_bench.methods.spec import StageSpec
    from cl_bench.models.layouts import Shape
    from cl_bench.training.update_plan import UpdatePlan

Linear = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
UNSEEN = ("migu", "ogd")
"""Methods that know what is trained by its matrices, which a function is not made of alone."""


class FunctionMethod(Method, ABC):
    """One function for each of some linear layers, trained through all stages; the model stays.

    No weight can hold a function, as it holds the product of LoRA's matrices: a stage's checkpoint
    is the functions alone (models/function_adapters.py), which only the engines in this process
    can score. What would need whole weights is refused: other engines, and another method in the
    stages behind. For decoders of Llama's kind.
    """

    adapters = True

    @abstractmethod
    def _layers(self, count: int) -> list[str]:
        """Names of the linear layers that get a function, of a model of `count` decoder layers."""

    @abstractmethod
    def _module(self) -> tuple[str, dict[str, Any]]:
        """The kind of function, and what its class takes beside the layer."""

    @abstractmethod
    def _shapes(self, inputs: int, outputs: int) -> Mapping[str, Shape]:
        """Parameters of the function of a linear layer of that size."""

    @abstractmethod
    def _kept(self, inputs: int, outputs: int) -> int:
        """Entries that the function of a layer of that size keeps for backward, for a token."""

    def refuses(self, stage: StageSpec) -> Iterable[str]:
        """What comes before it, and would look at a model without the functions."""
        if not isinstance(self, stage.parts[0].method):
            yield f"compose: the others would not see what {self.name} trains: list it first"
        for part in stage.parts:
            other = part.method.adapters and not isinstance(self, part.method)
            if other or part.method.name in UNSEEN:
                yield (
                    f"trains functions, {part.method.name} works on matrices: use one of the two"
                )

    def prepare(self, stage: Stage) -> None:
        """Attach the functions; from the second stage on the model comes with them."""
        import torch

        from cl_bench.models.function_adapters import FunctionAdapter, adapter_of, attach
        from cl_bench.seeds import derive_seed

        model: Any = stage.model
        layers = self._layers(model.config.num_hidden_layers)
        wanted = FunctionAdapter(*self._module(), layers)
        if (found := adapter_of(stage.model)) is not None:
            if found != wanted:
                raise RunError(f"{self.name}: the stage before left other functions: {found}")
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(stage.seed, self.name))
            attach(stage.model, wanted)

    def plan(self, stage: Stage) -> UpdatePlan:
        """All parameters of the functions, and no others."""
        from cl_bench.training.update_plan import Frozen, Full, UpdatePlan

        own = [name for name, _ in stage.model.named_parameters() if ".function." in name]
        return UpdatePlan({name: Full() for name in own}, default=Frozen())

    def trains(self, shapes: Shapes) -> Trained:
        """The functions' parameters. Raises UserError for other models than Llama's kind."""
        from dataclasses import replace

        from cl_bench.costs.added import Cost, Memory
        from cl_bench.costs.trained import adapters
        from cl_bench.models.places import layer_of

        if shapes.architecture is None:
            raise UserError(
                f"{self.name}: the layers it knows are those of {', '.join(DECODERS)}; this model "
                f"is of type {shapes.kind}"
            )
        layers, kept = self._layers(shapes.architecture.layers), 0
        added: dict[str, Shape] = {}
        for name in layers:
            outputs, inputs = shapes.parameters[f"{name}.weight"]
            own = self._shapes(inputs, outputs)
            added |= {f"{name}.function.{key}": shape for key, shape in own.items()}
            kept += self._kept(inputs, outputs)
        places = {name: place[1] for name in shapes.parameters if (place := layer_of(name))}
        lowest = min(places[f"{name}.weight"] for name in layers)
        below = sum(
            shapes.active(name, math.prod(shapes.parameters[name]))
            for name, number in places.items()
            if number < lowest
        )
        found = adapters(shapes, added, frozenset(n for n in added if n.endswith(".scale")))
        return replace(
            found,
            flops_per_token=found.flops_per_token - 2 * below,
            lowest=lowest,
            adds=found.adds + Cost(Memory(per_token=shapes.dtype_bytes * kept)),
        )

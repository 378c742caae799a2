"""Bottleneck adapters (Houlsby et al., ICML 2019, arXiv 1902.00751)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cl_bench.methods.base import Options
from cl_bench.methods.function_methods import FunctionMethod

if TYPE_CHECKING:
    from cl_bench.models.layouts import Shape


class BottleneckOptions(Options):
    """Options of bottleneck adapters."""

    size: Annotated[int, Field(gt=0)] = Field(64, description="units of the bottleneck")
    place: Literal["both", "mlp"] = Field(
        "both", description="behind attention and MLP (Houlsby), or behind the MLP alone (Pfeiffer)"
    )
    activation: Literal["gelu", "relu", "silu"] = Field("gelu", description="in the bottleneck")
    init: Literal["normal", "zero"] = Field(
        "normal",
        description="of the second matrix. normal: small as the first one, so that the model is "
        "near itself at first, as published; zero: it is the model itself",
    )


class BottleneckAdapters(FunctionMethod):
    """y + up f(down y): behind o_proj and down_proj of every layer, before the residual is added.

    Two matrices with biases and `size` units between them, drawn with a deviation of 0.01 and cut
    off at twice that, biases 0: the model begins near itself. One adapter through all stages.
    Houlsby et al. also train the layer norms of a task, which are frozen here. `place: mlp` is
    where Pfeiffer et al. (2021, arXiv 2005.00247) found one enough; their second norm is BERT's and
    not here.
    """

    name = "bottleneck"
    family = "adapters"
    source = "Houlsby 2019, arXiv 1902.00751"
    options_type: ClassVar[type[Options]] = BottleneckOptions
    options: BottleneckOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"lr": 3e-4}

    def _layers(self, count: int) -> list[str]:
        ends = ["self_attn.o_proj"] * (self.options.place == "both") + ["mlp.down_proj"]
        return [f"model.layers.{layer}.{end}" for layer in range(count) for end in ends]

    def _module(self) -> tuple[str, dict[str, Any]]:
        options = self.options
        return "bottleneck", {
            "size": options.size,
            "activation": options.activation,
            "zero": options.init == "zero",
        }

    def _shapes(self, inputs: int, outputs: int) -> Mapping[str, Shape]:
        size = self.options.size
        return {
            "down.weight": (size, outputs),
            "down.bias": (size,),
            "up.weight": (outputs, size),
            "up.bias": (outputs,),
        }

    def _kept(self, inputs: int, outputs: int) -> int:
        """The layer's output, and the bottleneck before and behind `f`."""
        return outputs + 2 * self.options.size

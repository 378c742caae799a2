"""KAN-LoRA (Rahman et al., AAAI 2026, arXiv 2511.12828): LoRA's matrices as B-spline layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from cl_bench.methods.base import Options
from cl_bench.methods.function_methods import FunctionMethod, Linear

if TYPE_CHECKING:
    from cl_bench.models.layouts import Shape

ORDER = 3
"""Degree of the splines, as in models/kan.py, which needs torch."""


class KANLoRAOptions(Options):
    """Options of KAN-LoRA; defaults are those of the authors' scripts."""

    r: Annotated[int, Field(gt=0)] = Field(8, description="units between the two layers")
    lora_alpha: Annotated[float, Field(gt=0)] = Field(16, description="scale is lora_alpha / r")
    grid: Annotated[int, Field(gt=0)] = Field(
        5, description="equal intervals of the splines between -1 and 1"
    )
    target_modules: Annotated[list[Linear], Field(min_length=1)] = Field(
        ["q_proj", "v_proj"], description="linear layers that get one"
    )
    last_layers: Annotated[int, Field(gt=0)] | None = Field(
        2, description="in so many decoder layers, counted from the head; null: in all"
    )
    init: Literal["random", "zero"] = Field(
        "random",
        description="of the second layer. random: as the authors' code, which changes the model "
        "before training; zero: as LoRA, the model itself at first",
    )


class KANLoRA(FunctionMethod):
    """y = W x + lora_alpha / r * K_2(K_1(x)), K_1 and K_2 layers of a KAN.

    K(x)_j = sum_i base_ji silu(x_i) + scale_ji sum_g spline_jig B_g(x_i), with cubic B-splines on a
    fixed grid; all three are trained (models/kan.py). The paper says that LoRA's two matrices
    become KAN layers; what it leaves open is taken from its code: rank, grid, the last two layers,
    q and v, and a random second layer. Splines are 0 where |x| is above 1 + 6 / grid, which hidden
    states can be: there only silu is left. Their code's EWC is `compose: [kan_lora, ewc]`, by ours.
    The authors' own results on language models are below LoRA's.
    """

    name = "kan_lora"
    family = "adapters"
    source = "Rahman 2026, arXiv 2511.12828"
    options_type: ClassVar[type[Options]] = KANLoRAOptions
    options: KANLoRAOptions
    train_defaults: ClassVar[Mapping[str, Any]] = {"lr": 2e-3}

    def _layers(self, count: int) -> list[str]:
        last = self.options.last_layers
        return [
            f"model.layers.{layer}.{_part(module)}.{module}"
            for layer in range(0 if last is None else max(0, count - last), count)
            for module in self.options.target_modules
        ]

    def _module(self) -> tuple[str, dict[str, Any]]:
        options = self.options
        return "kan", {
            "r": options.r,
            "alpha": options.lora_alpha,
            "grid": options.grid,
            "zero": options.init == "zero",
        }

    def _shapes(self, inputs: int, outputs: int) -> Mapping[str, Shape]:
        r, splines = self.options.r, self.options.grid + ORDER
        found: dict[str, Shape] = {}
        for layer, rows, columns in (("inner", r, inputs), ("outer", outputs, r)):
            found[f"{layer}.base"] = found[f"{layer}.scale"] = (rows, columns)
            found[f"{layer}.spline"] = (rows, columns * splines)
        return found

    def _kept(self, inputs: int, outputs: int) -> int:
        """Input, silu and splines of both layers."""
        return (2 + self.options.grid + ORDER) * (inputs + self.options.r)


def _part(module: str) -> str:
    """Where a linear layer is in a decoder layer."""
    return "self_attn" if module in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"

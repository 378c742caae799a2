"""An adapter is saved alone: the weights under it must stay those of the base that it names."""

from __future__ import annotations

from typing import Any

from cl_bench.errors import RunError
from cl_bench.methods.spec import StageSpec
from cl_bench.models.checkpoints import is_adapter


class BaseWeights:
    """Remembers a sum over each weight that is no adapter's, where a user's method could move it.

    Shipped methods train adapters alone. A method that merges an adapter in `prepare`, or that also
    trains weights under it, would be scored with weights that no file holds.
    """

    def __init__(self, spec: StageSpec, model: Any) -> None:
        own = any(not part.method.__module__.startswith("cl_bench.") for part in spec.parts)
        self._names = " + ".join(part.method.name for part in spec.parts)
        self._sums = _sums(model) if spec.adapters and own else {}

    def check(self, model: Any) -> None:
        """Raise RunError where the model is saved as an adapter and a weight under it changed."""
        if not self._sums or not is_adapter(model):
            return
        now = _sums(model)
        changed = [name for name, value in self._sums.items() if now.get(name) != value]
        if changed:
            raise RunError(
                f"method {self._names}: the stage's checkpoint is an adapter alone, and "
                f"{changed[0]} (of {len(changed)} weights) under it is not that of its base any "
                "more: leave those weights as they are, or merge the adapter in finish and leave "
                "`adapters` False"
            )


def _sums(model: Any) -> dict[str, float]:
    """By the plain model's names, adapters left out. Equal weights have equal sums."""
    import torch

    adapter = getattr(getattr(model, "base_model", None), "prefix", None)
    found = {}
    for name, weight in model.named_parameters():
        if ".modules_to_save." in name or ".function." in name:
            continue
        if is_adapter(model) and adapter and adapter in name:
            continue
        plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
        plain = plain.replace(".original_module.", ".")
        found[plain] = float(weight.detach().sum(dtype=torch.float64))
    return found

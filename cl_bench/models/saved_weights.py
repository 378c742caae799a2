"""The weights of a saved model by name, each read from its file when it is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.models.deltas import StoredTensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class SavedWeights(Mapping[str, "Tensor"]):
    """Parameters of a plain model by name, in one dtype, on the CPU.

    Read one by one where the files, or deltas, hold them under the names that the model gives them
    (`names`). Elsewhere (adapters to merge, other layouts, hub models) `load` makes the whole
    model, once.
    """

    def __init__(
        self,
        folder: Path | None,
        names: Collection[str],
        dtype: torch.dtype,
        load: Callable[[], Any],
    ) -> None:
        self._dtype, self._load = dtype, load
        self._model: dict[str, Tensor] | None = None
        self._stored = None if folder is None else StoredTensors(folder)
        there = () if self._stored is None else set(self._stored.names)
        self._names = dict.fromkeys(names) if all(name in there for name in names) else {}

    def __getitem__(self, name: str) -> Tensor:
        if self._stored is not None and name in self._names:
            return self._stored.get(name).to(self._dtype)
        if name not in self:
            raise KeyError(f"{name}: weights go by the names of the plain model, adapters merged")
        return self._whole()[name].to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names or self._whole())

    def __len__(self) -> int:
        return len(self._names or self._whole())

    def __contains__(self, name: object) -> bool:
        return name in (self._names or self._whole())

    def _whole(self) -> Mapping[str, Tensor]:
        if self._names:
            return {}
        if self._model is None:
            parameters = self._load().named_parameters()
            self._model = {name: parameter.detach() for name, parameter in parameters}
        return self._model

"""The weights of a saved model by name, each read from its file when it is used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.store.folders import read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_ONE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class SavedWeights(Mapping[str, "Tensor"]):
    """Parameters of a plain model by name, in one dtype, on the CPU.

    Read one by one where the files hold them under the names that the model gives them (`names`).
    Elsewhere (adapters to merge, other layouts, hub models) `load` makes the whole model, once.
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
        files = {} if folder is None else _files(folder)
        self._files = {name: files[name] for name in names if name in files}
        if not names or len(self._files) < len(names):
            self._files = {}

    def __getitem__(self, name: str) -> Tensor:
        if name in self._files:
            from safetensors import safe_open

            with safe_open(self._files[name], framework="pt") as file:
                return file.get_tensor(name).to(self._dtype)  # type: ignore[no-any-return]
        if name not in self:
            raise KeyError(f"{name}: weights go by the names of the plain model, adapters merged")
        return self._whole()[name].to(self._dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files or self._whole())

    def __len__(self) -> int:
        return len(self._files or self._whole())

    def __contains__(self, name: object) -> bool:
        return name in (self._files or self._whole())

    def _whole(self) -> Mapping[str, Tensor]:
        if self._files:
            return {}
        if self._model is None:
            parameters = self._load().named_parameters()
            self._model = {name: parameter.detach() for name, parameter in parameters}
        return self._model


def stored_names(folder: Path) -> list[str]:
    """The names under which a folder's safetensors hold tensors; none where there are none."""
    return sorted(_files(folder))


def _files(folder: Path) -> dict[str, Path]:
    """In which file of a folder each tensor is; empty where there are no safetensors."""
    from safetensors import safe_open

    if (folder / _ONE).is_file():
        with safe_open(folder / _ONE, framework="pt") as file:
            return dict.fromkeys(file.keys(), folder / _ONE)
    if not (folder / _INDEX).is_file():
        return {}
    found = read_json(folder / _INDEX)["weight_map"]
    return {name: folder / file for name, file in found.items()}

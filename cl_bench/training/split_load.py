"""Models whose weights are split over processes, loaded without a whole copy in main memory.

The model is built without weights and split; then each process reads its own rows from the
safetensors files. Where the files are others (.bin, other names than the model's, tensors that
transformers converts) each process loads the whole model and keeps its rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cl_bench.models.contents import model_folder
from cl_bench.models.deltas import StoredTensors
from cl_bench.models.load import completed, load_model, load_skeleton, load_tokenizer
from cl_bench.training.sharding import is_split, own_part, own_rows, shard_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class SplitLoad:
    """Loads models for one of `world` processes that computes on `device`.

    `main_memory`: its rows of the weights stay there (`train.offload: [weights]`).
    """

    device: torch.device
    world: int
    main_memory: bool = False

    def __call__(
        self, path: str | Path, dtype: str
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """As `load_model`, whose errors it raises, split as `shard_model` does it."""
        model, faults = load_skeleton(path, dtype=dtype)
        folder = model_folder(path)[0]
        places = {} if folder is None else _places(model, StoredTensors(folder))
        if not places or _odd_tensors(model):
            whole, tokenizer = load_model(path, dtype)
            self.split(whole)
            return whole, tokenizer
        tokenizer = load_tokenizer(path)
        completed(model, tokenizer, faults)
        _real_buffers(model)
        self.split(model, places)
        return model, tokenizer

    def split(self, model: Any, places: Mapping[str, tuple[Path, str]] | None = None) -> None:
        """Split a whole model, or one without weights, which are read from `places`."""

        def fill() -> None:
            if places is not None:
                _fill(model, places)

        shard_model(model, self.device, self.world, self.main_memory, fill)


def _places(model: Any, stored: StoredTensors) -> dict[str, tuple[Path, str]]:
    """By parameter the file and the name there; nothing where one is not there as it is."""
    from transformers.conversion_mapping import WeightConverter, get_model_conversion_mapping

    mapping = get_model_conversion_mapping(model, add_legacy=False)
    kept = set(model.state_dict()) - {n for n, _ in model.named_parameters(remove_duplicate=False)}
    if kept or any(isinstance(one, WeightConverter) for one in mapping):
        return {}
    prefix = f"{model.base_model_prefix}."
    found: dict[int, tuple[Path, str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        for known in (name, name.removeprefix(prefix)):
            if known in stored.files:
                found.setdefault(id(parameter), (stored.files[known], known))
    named = dict(model.named_parameters())
    if any(id(parameter) not in found for parameter in named.values()):
        return {}
    return {name: found[id(parameter)] for name, parameter in named.items()}


def _odd_tensors(model: Any) -> bool:
    """Whether layers have tensors that are neither parameters nor buffers, which nothing fills."""
    found = (value for module in model.modules() for value in vars(module).values())
    return any(isinstance(value, torch.Tensor) for value in found)


def _real_buffers(model: Any) -> None:
    """Put what the model computes itself (frequencies) where a model without weights has nothing.

    They are those of a second one, whose weights are given up one by one as it is built.
    """
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), init_empty_weights(include_buffers=False):
        other = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    for name, buffer in other.named_buffers():
        module, _, own = name.rpartition(".")
        model.get_submodule(module)._buffers[own] = buffer


def _fill(model: Any, places: Mapping[str, tuple[Path, str]]) -> None:
    """Read what is here of every parameter, rounded to its dtype."""
    from safetensors import safe_open

    with ExitStack() as opened, torch.no_grad():
        files: dict[Path, Any] = {}
        for name, parameter in model.named_parameters():
            file, key = places[name]
            if file not in files:
                files[file] = opened.enter_context(safe_open(file, framework="pt"))
            source = files[file].get_slice(key)
            if not is_split(parameter):
                parameter.copy_(source[:] if parameter.dim() else files[file].get_tensor(key))
                continue
            own_part(parameter).copy_(source[slice(*own_rows(parameter))])

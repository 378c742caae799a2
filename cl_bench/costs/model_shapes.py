"""Shapes of the config's model without its weights: from its config.json, wherever that is.

Quick on purpose: `cl-bench plan` asks. What is on this machine comes first, then a file shipped
with cl-bench, and the hub only for models that neither knows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cl_bench.config.schema import QUICKSTART_MODEL, ModelConfig
from cl_bench.costs.shapes import Shapes, decoder_shapes, meta_shapes
from cl_bench.models.kinds import kind_fault
from cl_bench.models.load import model_path_fault
from cl_bench.resources import expanded, user_cache

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
_QUICKSTART_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_SECONDS = 5


@dataclass(frozen=True)
class ModelShapes:
    """Shapes and the source they come from; without shapes, `source` says why."""

    shapes: Shapes | None
    source: str


def model_shapes(model: ModelConfig) -> ModelShapes:
    """Shapes of `model.path` in `model.dtype`: local folder, hub cache, shipped file, hub."""
    fault = model_path_fault(model.source)
    if fault:
        return ModelShapes(None, fault)
    size = DTYPE_BYTES[model.dtype]
    try:
        config, source = known_config(model)
        if fault := kind_fault(config, model.path):
            return ModelShapes(None, fault)
        return ModelShapes(decoder_shapes(config, size) or meta_shapes(config, size), source)
    except _UnknownError as error:
        return ModelShapes(None, str(error))
    except Exception as error:  # whatever transformers finds wrong with values it does not know
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return ModelShapes(None, f"the config.json of {model.path} cannot be read: {reason}")


class _UnknownError(Exception):
    """There is no config.json to be had; the message says why."""


_ANSWERS: dict[ModelConfig, Mapping[str, Any] | _UnknownError] = {}
"""Of the hub, so far."""


def known_kind_fault(model: ModelConfig) -> str | None:
    """`kind_fault` of a model that need not be on this machine; None where nothing is known."""
    try:
        return kind_fault(known_config(model)[0], model.path)
    except (_UnknownError, OSError, ValueError):
        return None


def known_config(model: ModelConfig) -> tuple[Mapping[str, Any], str]:
    """The values of the model's config.json and where they come from, asked in that order."""
    here = model_file(model, "config.json")
    if here is not None:
        return json.loads(here.read_text(encoding="utf-8")), "config.json on this machine"
    name = _QUICKSTART_HUB_ID if model.path == QUICKSTART_MODEL else model.path
    known = known_models() if model.revision is None else {}
    if name in known:
        return known[name], "cl-bench's table of known models"
    return _from_hub(model), "config.json on the hub"


def config_here(model: ModelConfig) -> Mapping[str, Any] | None:
    """The values of a config.json on this machine; None where there is none that can be read."""
    here = model_file(model, "config.json")
    try:
        values = None if here is None else json.loads(here.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def weights_here(model: ModelConfig) -> bool:
    """Whether all weights of a hub model are in Hugging Face's cache."""
    if model_file(model, "model.safetensors"):
        return True
    index = model_file(model, "model.safetensors.index.json")
    if index is None:
        return False
    shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    return all(model_file(model, shard) for shard in shards)


def model_file(model: ModelConfig, name: str) -> Path | None:
    """A file of the model that is on this machine already; None if there is none."""
    folder = expanded(model.path)
    if model.path == QUICKSTART_MODEL:
        folder = user_cache() / "models" / QUICKSTART_MODEL
    found = folder / name
    return found if found.is_file() else _hub_cached(model, name)


def _hub_cached(model: ModelConfig, name: str) -> Path | None:
    """A file of a hub model in Hugging Face's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model.path, name, revision=model.revision)
    except HFValidationError:  # a path that is no hub id
        return None
    return Path(found) if isinstance(found, str) else None


def known_models() -> dict[str, Mapping[str, Any]]:
    """Hub id -> config.json values of the models whose shapes are shipped."""
    import yaml

    text = (Path(__file__).parent / "known_models.yaml").read_text(encoding="utf-8")
    return {name: entry["config"] for entry in yaml.safe_load(text) for name in entry["names"]}


def _from_hub(model: ModelConfig) -> Mapping[str, Any]:
    """What the hub answered, or why it did not; asked once in a process."""
    if model not in _ANSWERS:
        try:
            _ANSWERS[model] = _ask_hub(model)
        except _UnknownError as error:
            _ANSWERS[model] = error
    answer = _ANSWERS[model]
    if isinstance(answer, _UnknownError):
        raise answer
    return answer


def _ask_hub(model: ModelConfig) -> Mapping[str, Any]:
    """One try of a few seconds; huggingface_hub's own download would retry for half a minute."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(model.path, "config.json", revision=model.revision)
    try:
        answer = get_session().get(
            url, headers=build_hf_headers(), timeout=_HUB_SECONDS, follow_redirects=True
        )
        answer.raise_for_status()
        values: Mapping[str, Any] = answer.json()
    except Exception as error:  # offline, no such model, gated, not JSON: all the same here
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _UnknownError(
            f"{model.path} is not on this machine, not in the table of known models, and the hub "
            f"does not give its config.json ({reason})"
        ) from error
    return values

"""Whatever a config says: it is a valid one, or its faults are told; never another exception."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_bench.config.file import load_config
from cl_bench.config.schema import ExperimentConfig
from cl_bench.config.yaml_text import parse
from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve_file

VALID: dict[str, Any] = {
    "name": "tiny",
    "model": {"path": "smollm2-135m", "dtype": "float32"},
    "seeds": [1, 2],
    "task_paths": [],
    "methods": [
        "ori",
        {"name": "fggm", "alpha": 0.5, "label": "half"},
        {"compose": ["ewc", {"name": "replay", "ratio": 0.1}], "lambda": 3},
        {"name": "lora", "r": 4, "lr": 1e-3},
    ],
    "stages": [
        {"task": "mini_fomc", "epochs": 2, "limit": 8},
        {"task": "mini_cstance", "test_limit": 3, "score": True},
    ],
    "train": {"lr": 1e-3, "batch_size": 4, "betas": [0.9, 0.99], "micro_batch_size": "auto"},
    "eval": {
        "trace": {"limit": 6, "cells": "all"},
        "general": {"tasks": ["mini_piqa"], "limit": {"mini_piqa": 4}},
        "within_stage": {"every": 3},
        "probes": False,
    },
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 3),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "~", "..", "../x", "a/b", "x" * 300, "\0", "1e-5", "yes", "~nobody/x"]),
    st.sampled_from(["sft", "ori", "FOMC", "epoch", "auto", "every", "left", "mini_fomc"]),
    st.dates(),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.text(max_size=5), st.integers(), st.none()), inner, max_size=3
        ),
    ),
    max_leaves=5,
)
in_one_folder = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a value with each of its keys or positions."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def mutated(draw: st.DataObject, config: dict[str, Any]) -> dict[str, Any]:
    """A few values replaced, removed, or put under a key that differs by a letter."""
    config = copy.deepcopy(config)
    for _ in range(draw.draw(st.integers(1, 3))):
        holder, key = draw.draw(st.sampled_from(places(config)))
        if key not in (holder if isinstance(holder, dict) else range(len(holder))):
            continue  # removed by the mutation before
        kind = draw.draw(st.sampled_from(["replace", "remove", "rename"]))
        if kind == "replace":
            holder[key] = draw.draw(values)
        elif kind == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(key)[:-1]] = holder.pop(key)
    return config


@pytest.fixture(scope="module", autouse=True)
def resolved_once() -> None:
    """What the first example would import counts for none."""
    parse(yaml.safe_dump(VALID), "x")


@in_one_folder
@given(st.one_of(st.text(), st.text("[]{}:,-*&!?|> \n\t'\"#%@~<0a.", max_size=40)))
def test_any_text(tmp_path: Path, text: str) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError) as refusal:  # no text this short says what is required
        resolve_file(str(file))
    assert all(str(file) in fault for fault in refusal.value.faults)


@in_one_folder
@given(st.binary(max_size=60))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError):
        resolve_file(str(file))


@in_one_folder
@given(st.data())
def test_a_valid_config_with_changes(tmp_path: Path, draw: st.DataObject) -> None:
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(mutated(draw, VALID), allow_unicode=True), encoding="utf-8")
    try:
        experiment = resolve_file(str(file))
    except UserError as error:
        assert error.faults and all(fault.strip() for fault in error.faults)
    else:
        assert experiment.config == load_config(str(file))


@in_one_folder
@given(st.data())
def test_overrides_of_any_kind(tmp_path: Path, draw: st.DataObject) -> None:
    file = tmp_path / "valid.yaml"
    file.write_text(yaml.safe_dump(VALID))
    words = st.sampled_from(["train", "lr", "methods", "stages", "0", "1", "9", "eval", "", "name"])
    key = ".".join(draw.draw(st.lists(words, min_size=1, max_size=3)))
    value = draw.draw(st.one_of(st.text(max_size=10), values.map(str)))
    try:
        resolve_file(str(file), [f"{key}={value}"])
    except UserError as error:
        assert error.faults


def test_what_is_valid_comes_back_as_it_was(tmp_path: Path) -> None:
    """Written out with every default and read again it is the same config."""
    file = tmp_path / "valid.yaml"
    file.write_text(yaml.safe_dump(VALID))
    config = load_config(str(file))
    resolve_file(str(file))
    for unset in (True, False):
        said = config.model_dump(mode="json", exclude_unset=unset, by_alias=True)
        if not unset:
            said = {k: v for k, v in said.items() if v is not None}
        file.write_text(yaml.safe_dump(said))
        assert load_config(str(file)) == config


@settings(max_examples=40)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "lr": st.floats(1e-9, 1.0),
            "batch_size": st.integers(1, 10**6),
            "betas": st.lists(st.integers(0, 99).map(lambda n: n / 100), min_size=2, max_size=2),
            "schedule": st.sampled_from(["linear", "constant", "cosine"]),
            "gradient_checkpointing": st.booleans(),
        },
    ),
    st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4, unique=True),
)
def test_round_trip_of_valid_values(train: dict[str, Any], seeds: list[int]) -> None:
    given_ = VALID | {"train": train, "seeds": seeds}
    config = ExperimentConfig.model_validate(parse(yaml.safe_dump(given_), "x"))
    again = config.model_dump(mode="json", exclude_unset=True)
    assert ExperimentConfig.model_validate(parse(yaml.safe_dump(again), "x")) == config
    assert config.seeds == seeds
    for key, value in train.items():
        found = getattr(config.train, key)
        assert (list(found) if isinstance(found, tuple) else found) == value

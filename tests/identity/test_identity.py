"""Every key of a config is either part of what a run is bound to, or listed with a reason."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from cl_bench.config.schema import ExperimentConfig
from cl_bench.data.definitions import code_of
from cl_bench.experiment.resolve import resolve
from cl_bench.identity.bindings import (
    IRRELEVANT,
    PARTS,
    base_settings,
    run_settings,
    settings_checksum,
)
from cl_bench.models import contents
from cl_bench.models.contents import changed_files, checksum, model_contents, same_model

CONFIG: dict[str, Any] = {
    "name": "a",
    "model": {"path": "owner/name"},
    "seeds": [1],
    "methods": ["sft"],
    "stages": [{"task": "mini_fomc"}, {"task": "mini_py150"}],
    "eval": {"within_stage": "epoch"},
}
OTHERWISE: dict[str, Any] = {
    "keep": "last",
    "checkpoints": "delta",
    "name": "b",
    "model.path": "owner/other",
    "model.dtype": "float32",
    "model.revision": "v1",
    "model.chat_template": "auto",
    "model.system": "Be brief.",
    "model.fewshot_as_multiturn": False,
    "model.start": "other/sft@1",
    "seeds": [1, 2],
    "task_paths": ["x"],
    "data_root": "x",
    "methods": ["ewc"],
    "stages.1.task": "mini_cstance",
    "stages.1.data": "other.jsonl",
    "stages.1.test": "other.jsonl",
    "stages.1.holdout": 0.5,
    "stages.1.metrics": ["rouge_l"],
    "stages.1.epochs": 2,
    "stages.1.limit": 3,
    "stages.1.test_limit": 3,
    "stages.1.score": False,
    "stages.1.method": "sft",
    "stages.1.allow_unreachable": True,
    "allow_unreachable": True,
    "save_every": "1 h",
    "track": ["tensorboard"],
    "engine.name": "hf",
    "engine.args": {"max_length": 9},
    "engine.python": "/usr/bin/python3",
    "engine.keep": False,
    "expected": [{"kind": "published", "source": "a paper", "note": "of another model"}],
    "train.lr": 0.5,
    "train.schedule": "constant",
    "train.warmup_steps": 1,
    "train.batch_size": 4,
    "train.micro_batch_size": 2,
    "train.micro_batch_tokens": 64,
    "train.max_prompt_tokens": 8,
    "train.max_answer_tokens": 8,
    "train.truncation": "trace",
    "train.max_grad_norm": 2.0,
    "train.betas": [0.5, 0.9],
    "train.gradient_checkpointing": True,
    "train.shard": True,
    "train.offload": ["method"],
    "eval.trace.after": "last",
    "eval.trace.cells": "all",
    "eval.trace.limit": 3,
    "eval.general.after": "last",
    "eval.general.tasks": ["piqa"],
    "eval.general.protocol": "opencompass-2023",
    "eval.general.limit": 3,
    "eval.general.budget": "quick",
    "eval.within_stage.every": 3,
    "eval.within_stage.tasks": ["mini_fomc"],
    "eval.within_stage.limit": 3,
    "eval.probes.kl_texts": 3,
    "eval.probes.kl_task_texts": 3,
    "eval.probes.kl_positions": 3,
}
"""Another value of every key; a new key fails the first test until it has its line here."""


WHOLE = ("MethodEntry", "Expected")
"""Sections that stand for one value here."""


def sections(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that an annotation names, in lists and unions too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections(argument)


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Dotted keys of all values; `stages.1.` for those of a stage."""
    for name, field in model.model_fields.items():
        inner = [each for each in sections(field.annotation) if each.__name__ not in WHOLE]
        if inner:
            yield from keys(inner[0], f"{prefix}{name}." + ("1." if name == "stages" else ""))
        else:
            yield prefix + name


def changed(key: str, value: Any) -> ExperimentConfig:
    data = json.loads(json.dumps(CONFIG))
    place: Any = data
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(place, list):
            place = place[int(parent)]
        else:
            if isinstance(place.get(parent), str):
                place[parent] = {"every": place[parent]}
            place = place.setdefault(parent, {})
    place[last] = value
    return ExperimentConfig.model_validate(data)


def test_every_key_of_a_config_is_known_here() -> None:
    assert set(keys(ExperimentConfig)) == set(OTHERWISE)
    assert IRRELEVANT.keys() <= OTHERWISE.keys() and all(IRRELEVANT.values())


@pytest.mark.parametrize("key", sorted(OTHERWISE.keys() - IRRELEVANT.keys() - {"stages.1.method"}))
def test_a_key_is_part_of_what_a_run_is_bound_to(key: str, tmp_path: Path) -> None:
    config, other = changed("name", "a"), changed(key, OTHERWISE[key])
    first, second = (resolve(each) for each in (config, other))
    settings = [run_settings(each, each.runs[0], tmp_path) for each in (first, second)]
    assert settings[0] != settings[1], key
    scored = {"model.dtype", "stages.1.task", "stages.1.score", "stages.1.test_limit"}
    scored |= {f"train.{name}" for name in ("max_prompt_tokens", "max_answer_tokens", "truncation")}
    if key in scored or key.startswith(("eval.general.t", "eval.general.l", "eval.probes")):
        assert base_settings(first, tmp_path) != base_settings(second, tmp_path), key


@pytest.mark.parametrize("key", ["lr", "batch_size", *PARTS])
def test_parts_of_updates_are_recorded_and_not_compared(key: str, tmp_path: Path) -> None:
    config, other = changed("name", "a"), changed(f"train.{key}", OTHERWISE[f"train.{key}"])
    settings = [
        run_settings(each, each.runs[0], tmp_path) for each in map(resolve, (config, other))
    ]
    same = settings_checksum(settings[0]) == settings_checksum(settings[1])
    assert same == (key in PARTS) and settings[0] != settings[1]


def weights(folder: Path, fill: bytes, shards: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"a": 1, "transformers_version": str(fill)}))
    if shards:
        index = {"weight_map": {"x": "part-1.safetensors", "y": "part-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "part-1.safetensors").write_bytes(b"1")
        (folder / "part-2.safetensors").write_bytes(fill)
    else:
        (folder / "model.safetensors").write_bytes(fill)
    (folder / "optimizer.pt").write_bytes(os.urandom(8))
    return folder


@pytest.mark.parametrize("shards", [False, True])
def test_a_model_is_known_by_its_weights(tmp_path: Path, shards: bool) -> None:
    first, second, copy = (
        model_contents(weights(tmp_path / name, fill, shards))
        for name, fill in (("a", b"w"), ("b", b"v"), ("c", b"w"))
    )
    assert same_model(first, copy) is True and same_model(first, second) is False
    assert changed_files(first, second) == ["part-2.safetensors" if shards else "model.safetensors"]
    assert model_contents("owner/nothing-here") == {}
    assert same_model(first, {}) is None
    assert same_model({"commit": "1"}, {"commit": "2"}) is False
    assert same_model({"commit": "1", **first}, {"commit": "2", **first}) is True


def test_large_files_are_read_once_for_each_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CL_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "KEPT_FROM", 2)
    monkeypatch.setattr(contents, "SETTLED_NS", -1)
    read: list[str] = []
    real = contents.sha256_file
    monkeypatch.setattr(contents, "sha256_file", lambda file: read.append(file.name) or real(file))
    file = tmp_path / "big"
    file.write_bytes(b"12345")
    first = checksum(file)
    assert (checksum(file), read) == (first, ["big"])
    time.sleep(0.02)
    file.write_bytes(b"54321")
    os.utime(file, ns=(0, 0))  # its size and time say nothing
    assert checksum(file) != first and read == ["big", "big"]
    (tmp_path / "cache" / "checksums.json").write_text("damaged")
    assert checksum(file) != first and read == ["big"] * 3


def test_a_file_of_the_hub_is_known_by_its_name(tmp_path: Path) -> None:
    blob = tmp_path / ("ab" * 32)
    blob.write_bytes(b"x")
    (tmp_path / "model.safetensors").symlink_to(blob)
    assert checksum(tmp_path / "model.safetensors") == blob.name


def test_code_is_known_by_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments and docstrings are no part; a helper file beside it is."""
    monkeypatch.syspath_prepend(str(tmp_path))
    marks, helper = tmp_path / "marks_of_birds.py", tmp_path / "helper_of_birds.py"
    helper.write_text("def up(x):\n    return 1\n")
    marks.write_text("from helper_of_birds import up\n\ndef f(x):\n    return up(x)\n")
    function = __import__("marks_of_birds").f
    before = code_of(function)
    marks.write_text(f"# a comment\n{marks.read_text()}".replace("(x):\n", "(x):\n    'F.'\n"))
    assert code_of(function) == before
    helper.write_text("def up(x):\n    return 23\n")
    assert code_of(function) != before
    assert code_of(json.dumps)["name"] == "dumps"
    assert "source" not in code_of(code_of)

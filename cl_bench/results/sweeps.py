"""Methods that are the same but for one number: `fggm` with several alphas, `sft` with rates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cl_bench.results.methods import MethodResult
from cl_bench.store.experiments import read_run

Key = tuple[str, ...]
Settings = Mapping[Key, tuple[Any, ...]]
"""By name: the value in every stage, None where a stage has none."""
NOT_SETTINGS = ("origins", "index")


@dataclass(frozen=True)
class Sweep:
    """Labels of one method by the value of the only number that they differ in, rising."""

    method: str
    """Names of what is trained with, joined by ` + `."""
    option: str
    labels: Mapping[float, str]


def sweeps(methods: Sequence[tuple[str, MethodResult]]) -> list[Sweep]:
    """All that there are, of at least two values, in the order of their first labels."""
    known = {label: settings_of(_stages(result)) for label, result in methods}
    return sweeps_of(known)


def sweeps_of(known: Mapping[str, Settings]) -> list[Sweep]:
    """The same of settings by label."""
    paths = dict.fromkeys(path for settings in known.values() for path in settings)
    varying = [
        path for path in paths if len({repr(settings.get(path)) for settings in known.values()}) > 1
    ]
    return [sweep for path in varying for sweep in _of(path, known, varying)]


def _of(path: Key, known: Mapping[str, Settings], varying: Sequence[Key]) -> Iterator[Sweep]:
    alike: dict[str, list[str]] = {}
    for label, settings in known.items():
        if path in settings:
            others = repr([settings.get(other) for other in varying if other != path])
            alike.setdefault(others, []).append(label)
    for labels in alike.values():
        values = [known[label][path] for label in labels]
        # A rate that one stage sets for itself is the same in all of them and counts for nothing.
        differing = [i for i, each in enumerate(zip(*values, strict=False)) if len(set(each)) > 1]
        found = {
            own[0]: label
            for value, label in zip(values, labels, strict=True)
            if len(own := sorted({value[i] for i in differing}, key=str)) == 1
            and isinstance(own[0], int | float)
            and not isinstance(own[0], bool)
        }
        if len(found) > 1:
            yield Sweep(_method(known[labels[0]]), path[-1], dict(sorted(found.items())))


def _method(settings: Settings) -> str:
    """`fggm + replay`."""
    first = next((value[0] for path, value in settings.items() if path == ("names",)), "")
    return str(first)


def _stages(result: MethodResult) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_run(result.runs[0].path / "run.json")["config"]["stages"]
    return found


def settings_of(stages: Sequence[Mapping[str, Any]]) -> Settings:
    """Of the stages in a `run.json`; values that are no numbers as JSON."""
    flat = [dict(_flat(stage)) for stage in stages]
    paths = dict.fromkeys(path for stage in flat for path in stage)
    return {path: tuple(stage.get(path) for stage in flat) for path in paths}


def _flat(stage: Mapping[str, Any]) -> Iterator[tuple[Key, Any]]:
    parts = [(name, options) for part in stage.get("method", []) for name, options in part.items()]
    yield ("names",), " + ".join(name for name, _ in parts)
    for place, (name, options) in enumerate(parts):
        for key, value in (options or {}).items():
            yield ("method", f"{place}", name, key), _value(value)
    for key, value in stage.get("train", {}).items():
        yield ("train", key), _value(value)
    for key, value in stage.items():
        if key not in ("method", "train", *NOT_SETTINGS):
            yield (key,), _value(value)


def _value(value: Any) -> Any:
    return value if isinstance(value, int | float) else json.dumps(value, sort_keys=True)

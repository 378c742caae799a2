"""A list for an option that takes one value: an entry of `methods:` stands for several runs.

`{name: fggm, alpha: [0.5, 0.7]}` is two entries, labelled `fggm alpha=0.5` and `fggm alpha=0.7`;
of several lists every combination is one. Options that are lists by nature stay as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from cl_bench.config.schema import MethodEntry, TrainConfig
from cl_bench.errors import UserError
from cl_bench.methods.base import Method

Classes = Sequence[tuple[type[Method], Mapping[str, Any]]]
"""The methods of an entry, each with the options that are given to it alone."""


@dataclass(frozen=True)
class _Listed:
    """A key with several values: of the whole entry, or of one part of its composition."""

    key: str
    part: int | None
    method: str
    values: Sequence[Any]


def entries_of(entry: MethodEntry, label: str, classes: Classes) -> list[tuple[str, MethodEntry]]:
    """(label, entry) for every combination of listed values, the last list changing fastest.

    `label` is that of the whole; where nothing is listed it stays. Raises UserError for a list that
    is empty or has a value twice.
    """
    listed = list(_listed(entry, classes))
    faults = [fault for each in listed for fault in _faults(each)]
    if faults:
        raise UserError(faults)
    names = _names(listed)
    found = []
    for values in itertools.product(*(each.values for each in listed)):
        chosen = list(zip(listed, values, strict=True))
        said = [f"{name}={text_of(v)}" for name, v in zip(names, values, strict=True)]
        found.append((" ".join([label, *said]), _with(entry, chosen) if listed else entry))
    return found


def text_of(value: Any) -> str:
    """A value as it stands in a label: `0.5`, `1e-5`, `true`, `none`; of a path its last part."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return repr(value).replace("e-0", "e-").replace("e+0", "e")
    text = str(value)
    return Path(text).name if Path(text).is_absolute() else text


def _listed(entry: MethodEntry, classes: Classes) -> Iterator[_Listed]:
    every = [cls for cls, _ in classes]
    for key, value in entry.overrides.items():
        if _expands(key, value, every, train=True):
            yield _Listed(key, None, "", value)
    for place, (cls, own) in enumerate(classes):
        for key, value in own.items():
            if _expands(key, value, [cls], train=False):
                yield _Listed(key, place, cls.name, value)


def _expands(key: str, value: Any, classes: Sequence[type[Method]], train: bool) -> bool:
    """Whether a value is a list of plain values for a key that nothing takes a list for."""
    if not isinstance(value, list) or any(isinstance(one, list | dict) for one in value):
        return False
    sections: list[type[BaseModel]] = [cls.options_type for cls in classes]
    sections += [TrainConfig] if train else []
    fields = [
        field
        for section in sections
        for name, field in section.model_fields.items()
        if (field.alias or name) == key
    ]
    return bool(fields) and not any(_takes_list(field.annotation) for field in fields)


def _takes_list(annotation: Any) -> bool:
    origin = get_origin(annotation)
    if annotation in (Any, None, list, tuple, set, frozenset):
        return annotation is not None
    if origin is Annotated:
        return _takes_list(get_args(annotation)[0])
    if isinstance(origin, type) and issubclass(origin, Collection):
        return True
    return origin is not None and any(_takes_list(one) for one in get_args(annotation))


def _faults(listed: _Listed) -> Iterator[str]:
    key = f"{listed.method}: {listed.key}" if listed.method else listed.key
    texts = [text_of(value) for value in listed.values]
    if not texts:
        yield f"{key}: the list is empty: give one value or more"
    for text in dict.fromkeys(texts):
        if texts.count(text) > 1:
            yield f"{key}: the list has {text} twice: each value is a run of its own"


def _names(listed: Sequence[_Listed]) -> list[str]:
    """Keys as labels say them, with the method where two have lists for keys of one name."""
    keys = [each.key for each in listed]
    return [
        f"{each.method}.{each.key}" if each.method and keys.count(each.key) > 1 else each.key
        for each in listed
    ]


def _with(entry: MethodEntry, chosen: Sequence[tuple[_Listed, Any]]) -> MethodEntry:
    """The entry with one value for each list."""
    data = entry.model_dump(exclude_unset=True)
    for listed, value in chosen:
        place = data if listed.part is None else data["compose"][listed.part]
        place[listed.key] = value
    return MethodEntry.model_validate(data)

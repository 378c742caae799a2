"""What a method hands from stage to stage, and whose it is.

Keys carry the name of the method they belong to (`ewc/model.layers.0...`): a state passes through
the stages of other methods untouched, and the parts of a composition do not see each other's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class State:
    """Tensors by name (saved as safetensors, on the CPU when loaded), and JSON values by name."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tensors or self.records)


def parts_of(method: Any) -> list[Any]:
    """The methods of a composition, or the method itself."""
    return list(getattr(method, "parts", [method]))


def state_of(method: Any) -> State:
    """What every part hands on, under its name."""
    tensors: dict[str, Tensor] = {}
    records: dict[str, Any] = {}
    for part in parts_of(method):
        own = part.state()
        tensors |= {f"{part.name}/{key}": value for key, value in own.tensors.items()}
        records |= {f"{part.name}/{key}": value for key, value in own.records.items()}
    return State(tensors, records)


def give_state(method: Any, state: State) -> None:
    """Hand every part what is under its name; a part of which nothing was kept is not asked."""
    for part in parts_of(method):
        own = State(_of(state.tensors, part.name), _of(state.records, part.name))
        if own:
            part.load_state(own)


def handed_on(method: Any, before: State, own: State) -> State:
    """What a stage leaves: what its methods keep replaces theirs, that of others passes through."""
    names = [part.name for part in parts_of(method)]
    return State(
        _without(before.tensors, names) | dict(own.tensors),
        _without(before.records, names) | dict(own.records),
    )


def _of(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}/"
    return {key[len(prefix) :]: value for key, value in values.items() if key.startswith(prefix)}


def _without(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    prefixes = tuple(f"{name}/" for name in names)
    return {key: value for key, value in values.items() if not key.startswith(prefixes)}

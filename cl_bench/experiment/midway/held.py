"""What a method object holds in the middle of a stage, as tensors and JSON, and how it is put back.

Nothing is pickled. A method is rebuilt by running its hooks again up to the phase in which it was
interrupted; what it changed since then is written over it, attribute by attribute. Values that the
hooks give again and that nothing changes (options, layouts, functions, frozen models) are left as
the hooks made them.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from cl_bench.methods.base import Stage, Step
from cl_bench.models.layouts import Layout
from cl_bench.training.sharding import is_split, joined, own_part
from cl_bench.training.update_plan import UpdatePlan

Node = list[Any]
"""A value: its kind, and what that needs (JSON)."""

_LEFT = (
    *(type, ModuleType, FunctionType, MethodType, BuiltinFunctionType, partial, property),
    *(torch.dtype, torch.device, torch.Size, Enum, PurePath, RemovableHandle),
    *(BaseModel, Stage, Step, UpdatePlan, Layout),
)
"""What hooks give again; none of it changes within a phase."""
_LISTS: dict[str, Callable[[Any], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": deque,
}
_MISSING = object()


class NotSavedError(Exception):
    """A method holds something that cannot be written as tensors and JSON; the text says what."""


@dataclass
class Held:
    """What was found: `tree` is JSON, `tensors` the storages that it names, on the CPU."""

    tree: Node
    tensors: dict[str, Tensor]


@dataclass
class Living:
    """Tensors that are saved elsewhere or rebuilt: weights of the model, buffers of the engine.

    A method may keep references to them, which are put back as references.
    """

    named: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        self._names = {_address(value): name for name, value in self.named.items()}

    def name(self, value: Tensor) -> str | None:
        """Which of them shares its storage with `value`."""
        return self._names.get(_address(value))

    def like(self, shape: list[int]) -> str | None:
        """A split one of that shape, as which others of that shape are split."""
        same = (n for n, v in self.named.items() if is_split(v) and list(v.shape) == shape)
        return next(same, None)


def _address(value: Tensor) -> tuple[str, int]:
    value = own_part(value)
    storage = value.untyped_storage()
    # Empty storages share the address 0 and nothing else.
    return str(value.device), storage.data_ptr() or -id(storage)


# --- Finding


def held(thing: object, living: Living) -> Held:
    """Everything that `thing` (a method) holds. Raises NotSavedError."""
    return _Finder(living, type(thing).__module__).find(thing)


@dataclass
class _Finder:
    living: Living
    module: str
    """Of the method's class: its other classes are of the method too."""
    tensors: dict[str, Tensor] = field(default_factory=dict)
    _seen: dict[int, int] = field(default_factory=dict)
    _kept: list[object] = field(default_factory=list)
    """So that no address is used twice while this works."""

    def find(self, thing: object) -> Held:
        tree = self._object(thing, type(thing).__name__)
        return Held(tree, self.tensors)

    def node(self, value: Any, where: str) -> Node:
        """`where` names the value for a message: `EWC._past[2]`."""
        if value is None or (isinstance(value, bool | int | str) and type(value) in _PLAIN):
            return ["=", value]
        if type(value) is float:
            return ["float", value.hex()]
        if id(value) in self._seen:
            return ["same", self._seen[id(value)]]
        if isinstance(value, Tensor):
            return self._split(value, where) if is_split(value) else self._tensor(value, where)
        if isinstance(value, nn.Module):
            return self._module(value, where)
        if isinstance(value, torch.Generator):
            return ["generator", self._store(value.get_state())]
        if isinstance(value, random.Random):
            version, state, gauss = value.getstate()
            return ["random", [version, list(state), gauss]]
        if isinstance(value, np.random.Generator):
            return ["numpy generator", value.bit_generator.state]
        if isinstance(value, np.generic):
            return ["scalar", value.dtype.str, value.item()]
        if isinstance(value, np.ndarray):
            raw = torch.from_numpy(np.ascontiguousarray(value).copy())
            return ["array", self._store(raw), value.dtype.str, list(value.shape)]
        if isinstance(value, _LEFT):
            return ["left"]
        if type(value).__name__ in _LISTS and type(value) is _LISTS[type(value).__name__]:
            number = self._number(value)
            parts = [self.node(each, f"{where}[{i}]") for i, each in enumerate(value)]
            return [type(value).__name__, number, parts]
        if isinstance(value, dict):
            number = self._number(value)
            pairs = [
                [self.node(key, f"{where} (a key)"), self.node(each, f"{where}[{key!r}]")]
                for key, each in value.items()
            ]
            return ["dict" if type(value) is dict else "own dict", number, pairs]
        if isinstance(value, Iterator | GeneratorType):
            raise NotSavedError(f"{where} is an iterator ({type(value).__name__})")
        return self._object(value, where)

    def _number(self, value: object) -> int:
        self._seen[id(value)] = len(self._kept)
        self._kept.append(value)
        return self._seen[id(value)]

    def _object(self, value: Any, where: str) -> Node:
        own = type(value).__module__
        if not (own == self.module or own.startswith("cl_bench.")) or not hasattr(
            value, "__dict__"
        ):
            raise NotSavedError(f"{where} is a {own}.{type(value).__qualname__}")
        number = self._number(value)
        parts = [[name, self.node(each, f"{where}.{name}")] for name, each in vars(value).items()]
        return ["object", number, f"{own}:{type(value).__qualname__}", parts]

    def _tensor(self, value: Tensor, where: str) -> Node:
        if value.layout != torch.strided:
            raise NotSavedError(f"{where} is a tensor without strides")
        number = self._number(value)
        view = [list(value.shape), list(value.stride()), value.storage_offset()]
        dtype = str(value.dtype).removeprefix("torch.")
        if (name := self.living.name(value)) is not None:
            return ["living", number, name, dtype, *view]
        if value.grad_fn is not None:
            raise NotSavedError(f"{where} is a tensor with a gradient's graph")
        device = str(value.device)
        return ["tensor", number, self._store(value), dtype, device, *view, value.requires_grad]

    def _split(self, value: Tensor, where: str) -> Node:
        """This process's rows of a tensor that is split over processes."""
        like = self.living.like(list(value.shape))
        if self.living.name(value) is not None or like is None:
            raise NotSavedError(f"{where} is split over processes, and is not the method's own")
        number = self._number(value)
        return ["split", number, self._tensor(own_part(value), where), like]

    def _store(self, value: Tensor) -> str:
        """The name of its storage, which views share."""
        storage = value.untyped_storage()
        raw = torch.empty(0, dtype=torch.uint8, device=value.device).set_(storage)
        name = f"{value.device}/{storage.data_ptr()}" if storage.data_ptr() else "empty"
        if name not in self.tensors:
            self.tensors[name] = raw.cpu()
            self._kept.append(storage)
        return name

    def _module(self, value: nn.Module, where: str) -> Node:
        """A frozen model is rebuilt; one that learns beside the stage's would be lost."""
        for name, weight in value.named_parameters():
            if weight.requires_grad and self.living.name(weight) is None:
                raise NotSavedError(f"{where} is a module that is trained ({name})")
        return ["left"]


_PLAIN = (bool, int, str)


# --- Putting back


def put_back(thing: object, found: Held, living: Living) -> None:
    """Write what was `held` over the method that its hooks rebuilt. Raises NotSavedError."""
    _Writer(found.tensors, living, type(thing).__module__).value(
        found.tree, thing, type(thing).__name__
    )


@dataclass
class _Writer:
    stored: Mapping[str, Tensor]
    living: Living
    module: str
    _made: dict[int, Any] = field(default_factory=dict)
    _storages: dict[str, Tensor] = field(default_factory=dict)

    def value(self, node: Node, now: Any, where: str) -> Any:
        """The value of a node; `now` is what the hooks put there, changed in place if possible."""
        kind, rest = node[0], node[1:]
        if kind == "=":
            return rest[0]
        if kind == "float":
            return float.fromhex(rest[0])
        if kind == "left":
            if now is _MISSING:
                raise NotSavedError(f"{where} is not there again")
            return now
        if kind == "same":
            return self._made[rest[0]]
        if kind in ("generator", "random", "numpy generator"):
            return self._generator(kind, rest, now)
        if kind == "scalar":
            return np.dtype(rest[0]).type(rest[1])
        if kind == "array":
            return (
                np.frombuffer(self.stored[rest[0]].numpy().tobytes(), rest[1])
                .reshape(rest[2])
                .copy()
            )
        if kind == "tensor":
            return self._tensor(rest, now)
        if kind == "split":
            number, (_, *part), like = rest
            split = isinstance(now, Tensor) and is_split(now)
            local = self._tensor(part, own_part(now) if split else _MISSING)
            same = split and own_part(now).data_ptr() == local.data_ptr()
            return self._keep(number, now if same else joined(local, self.living.named[like]))
        if kind == "living":
            number, name, dtype, *view = rest
            return self._keep(number, _view(self.living.named[name], dtype, *view))
        if kind in ("dict", "own dict"):
            if kind != "dict" and not isinstance(now, dict):
                raise NotSavedError(f"{where} is not there again")
            return self._dict(rest, now, where)
        if kind == "object":
            return self._object(rest, now, where)
        return self._list(kind, rest, now, where)

    def _keep(self, number: int, value: Any) -> Any:
        self._made[number] = value
        return value

    def _generator(self, kind: str, rest: list[Any], now: Any) -> Any:
        if kind == "generator":
            own = now if isinstance(now, torch.Generator) else torch.Generator()
            own.set_state(self.stored[rest[0]].clone())
            return own
        if kind == "random":
            version, state, gauss = rest[0]
            drawn = now if isinstance(now, random.Random) else random.Random()
            drawn.setstate((version, tuple(state), gauss))
            return drawn
        other = now if isinstance(now, np.random.Generator) else np.random.default_rng()
        other.bit_generator.state = rest[0]
        return other

    def _tensor(self, rest: list[Any], now: Any) -> Tensor:
        number, name, dtype, device, shape, stride, offset, requires_grad = rest
        stored = self.stored[name]
        fits = (
            isinstance(now, Tensor)
            and str(now.dtype) == f"torch.{dtype}"
            and [list(now.shape), list(now.stride()), now.storage_offset()]
            == [shape, stride, offset]
            and now.untyped_storage().nbytes() == len(stored)
            and _address(self._storages.get(name, now)) == _address(now)
            and self.living.name(now) is None
        )
        if fits:  # in place: a function or a hook may hold it too
            raw = torch.empty(0, dtype=torch.uint8, device=now.device)
            raw.set_(now.untyped_storage()).copy_(stored)
            self._storages.setdefault(name, now)
            return self._keep(number, now)  # type: ignore[no-any-return]
        if name not in self._storages:
            self._storages[name] = stored.clone().to(device)
        made = _view(self._storages[name], dtype, shape, stride, offset)
        return self._keep(number, made.requires_grad_(requires_grad))  # type: ignore[no-any-return]

    def _dict(self, rest: list[Any], now: Any, where: str) -> Any:
        number, pairs = rest
        before = dict(now) if isinstance(now, dict) else {}
        own = self._keep(number, now if isinstance(now, dict) else {})
        own.clear()
        for key_node, node in pairs:
            key = self.value(key_node, _MISSING, f"{where} (a key)")
            own[key] = self.value(node, before.get(key, _MISSING), f"{where}[{key!r}]")
        return own

    def _list(self, kind: str, rest: list[Any], now: Any, where: str) -> Any:
        number, parts = rest
        own, same = _LISTS[kind], type(now) is _LISTS[kind]
        before = list(now) if same and kind not in _UNORDERED else []
        before += [_MISSING] * (len(parts) - len(before))
        grows = kind in _GROWING
        found = self._keep(number, (now if same else own([])) if grows else None)
        made = [self.value(node, before[i], f"{where}[{i}]") for i, node in enumerate(parts)]
        if not grows:
            return self._keep(number, own(made))
        found.clear()
        found.extend(made)
        return found

    def _object(self, rest: list[Any], now: Any, where: str) -> Any:
        number, name, parts = rest
        if now is _MISSING or f"{type(now).__module__}:{type(now).__qualname__}" != name:
            now = _made_of(name, where, self.module)
        self._keep(number, now)
        before, found = dict(vars(now)), vars(now)
        for attribute in before.keys() - {attribute for attribute, _ in parts}:
            del found[attribute]
        for attribute, node in parts:
            now_ = before.get(attribute, _MISSING)
            found[attribute] = self.value(node, now_, f"{where}.{attribute}")
        return now


_UNORDERED = ("set", "frozenset")
_GROWING = ("list", "deque")


def _made_of(name: str, where: str, own: str) -> Any:
    """An empty object of a class of cl-bench's or of the method's own module, which is loaded.

    Of others none is made by a name in a file.
    """
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    if not (module == own or module.startswith("cl_bench.")) or found is None:
        raise NotSavedError(f"{where} is not there again")
    for part in path.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise NotSavedError(f"{where} is not there again")
    return object.__new__(found)


def _view(storage: Tensor, dtype: str, shape: list[int], stride: list[int], offset: int) -> Tensor:
    empty = torch.empty(0, dtype=getattr(torch, dtype), device=storage.device)
    return empty.set_(storage.untyped_storage(), offset, shape, stride)

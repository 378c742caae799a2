"""Layers whose weight is read by the module around them, which then does not call them.

An adapter adds to what its layer computes when it is called. Mamba's `dt_proj`, for one, is never
called: its parent multiplies by `self.dt_proj.weight`. The source of a module's class tells; where
it does both, a forward pass without numbers tells which.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

ABOUT = frozenset(
    [
        "data",
        "device",
        "dim",
        "dtype",
        "grad",
        "is_floating_point",
        "ndim",
        "numel",
        "requires_grad",
        "shape",
        "size",
    ]
)
"""Questions about a weight, not its numbers. Nor do slices count: Bloom takes them to compute the
same product in parts, if its config says so."""


def direct_reads(model: Any) -> dict[str, bool]:
    """Names of the layers whose weight their parent reads; True where it calls them too.

    `model` may be on the meta device. True is a layer that fused kernels bypass where they are
    installed.
    """
    found = {
        f"{name}.{child}" if name else child: called
        for name, module in model.named_modules()
        for child, called in _reads(type(module)).items()  # type: ignore[arg-type]
        if getattr(getattr(module, child, None), "weight", None) is not None
    }
    if any(found.values()):
        reached = _called(model.config)
        if reached is not None:
            return {name: called and name in reached for name, called in found.items()}
    return found


def _called(config: Any) -> set[str] | None:
    """Names of the modules that a forward pass calls; None where it needs real numbers."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    reached: set[str] = set()
    try:
        with FakeTensorMode(), torch.no_grad():
            # bfloat16: grouped products of experts know no other dtype here
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
            for name, module in model.named_modules():
                module.register_forward_hook(lambda *_, name=name: reached.add(name))
            model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=False)
    except Exception:
        return None
    return reached


@functools.cache
def _reads(cls: Any) -> dict[str, bool]:
    """Attributes X of `self` with `self.X.weight` in some method; whether `self.X(...)` is there.

    What initialises weights reads them too, and is left out.
    """
    if cls.__module__.startswith("torch."):
        return {}
    read: set[str] = set()
    called: set[str] = set()
    for function in _methods(cls):
        asked = {
            id(node.value)
            for node in ast.walk(function)
            if isinstance(node, ast.Subscript)
            or (isinstance(node, ast.Attribute) and node.attr in ABOUT)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and (name := _of_self(node.func)):
                called.add(name)
            elif isinstance(node, ast.Attribute) and node.attr == "weight":
                name = None if id(node) in asked else _of_self(node.value)
                read |= {name} if name else set()
    return {name: name in called for name in sorted(read)}


def _methods(cls: Any) -> Iterator[ast.AST]:
    """The methods that instances have, by their source; none where there is no source."""
    seen: set[str] = set()
    for owner in cls.__mro__:
        if owner.__module__.startswith("torch.") or owner is object:
            continue
        for name, function in _classes(owner.__module__).get(owner.__name__, {}).items():
            if name not in seen:
                seen.add(name)
                if "init" not in name and "reset" not in name:
                    yield function


@functools.cache
def _classes(module: str) -> Mapping[str, Mapping[str, ast.AST]]:
    """Methods of the classes of a module; the whole file is parsed once."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (KeyError, OSError, TypeError, SyntaxError):
        return {}
    return {
        node.name: {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def _of_self(node: ast.AST) -> str | None:
    """X of `self.X`."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.attr if node.value.id == "self" else None
    return None

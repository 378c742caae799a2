"""The one place that replaces a module's `forward`, and puts back what was there.

An attribute of the object hides the forward of its class; hooks are still called around it. Who
replaces a forward owns the module until it is restored: others ask `is_replaced` and keep away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


def is_replaced(module: nn.Module) -> bool:
    """Whether the module's forward is not that of its class."""
    return "forward" in vars(module)


def replace(module: nn.Module, forward: Forward) -> Callable[[], None]:
    """Put `forward` in the place of the module's own; returns what restores the one before."""
    before = vars(module).get("forward")
    vars(module)["forward"] = forward

    def restore() -> None:
        if before is None:
            vars(module).pop("forward", None)
        else:
            vars(module)["forward"] = before

    return restore


@contextmanager
def replaced(module: nn.Module, forward: Forward) -> Iterator[None]:
    """`replace` for as long as the block is open."""
    restore = replace(module, forward)
    try:
        yield
    finally:
        restore()


@contextmanager
def as_declared(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While open, the modules run the forwards of their classes; then the replaced ones again."""
    replacements = [(each, vars(each).pop("forward")) for each in modules if is_replaced(each)]
    try:
        yield
    finally:
        for module, forward in replacements:
            vars(module)["forward"] = forward

"""Reading YAML without its two traps: keys that are given twice, numbers of other bases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from cl_bench.errors import UserError

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_OTHER_BASE = re.compile(r"[-+]?0[0-7_]+")


def parse(text: str, where: str) -> Any:
    """The value that a text describes.

    Raises UserError with every fault, each beginning with `where`: what is no YAML, keys that a
    mapping has twice (YAML would keep the last), 010 and 1:30, which YAML takes for 8 and 90.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and (found := [*repeated_keys(root), *_odd_numbers(root)]):
            raise UserError([f"{where}: {fault}" for fault in found])
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{where}: not readable as YAML: {error}") from None
    except RecursionError:
        raise UserError(f"{where}: not readable as YAML: nested too deeply") from None


def text_faults(text: str) -> list[str]:
    """Keys that are given twice; none for a text that is no YAML."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return []
    return [] if root is None else list(repeated_keys(root))


def repeated_keys(root: yaml.Node) -> Iterator[str]:
    """A line for every key that stands twice in one mapping, with both lines of the text."""
    for node, path in _nodes(root):
        if not isinstance(node, yaml.MappingNode):
            continue
        first: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            name, line = (key.tag, str(key.value)), key.start_mark.line + 1
            if name in first:
                yield (
                    f"{'.'.join([*path, str(key.value)])}: given twice, in line {first[name]} and "
                    f"in line {line}: keep one"
                )
            first.setdefault(name, line)


def _odd_numbers(root: yaml.Node) -> Iterator[str]:
    for node, path in _nodes(root):
        if isinstance(node, yaml.ScalarNode) and node.tag in (_INT, _FLOAT) and node.style is None:
            text = node.value
            if ":" in text or (node.tag == _INT and _OTHER_BASE.fullmatch(text)):
                yield (
                    f"{'.'.join(path)}: {text} in line {node.start_mark.line + 1} is no decimal "
                    f"number: YAML reads {yaml.safe_load(text)}"
                )


def _nodes(root: yaml.Node) -> Iterator[tuple[yaml.Node, list[str]]]:
    """Every node with its path of keys, each once however often it is referred to."""
    seen: set[int] = set()
    queue: list[tuple[yaml.Node, list[str]]] = [(root, [])]
    while queue:
        node, path = queue.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node, path
        if isinstance(node, yaml.MappingNode):
            queue += [(value, [*path, str(key.value)]) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            queue += [(value, [*path, str(i)]) for i, value in enumerate(node.value)]

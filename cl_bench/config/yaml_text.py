"""Reading YAML without its traps: keys given twice, numbers of other bases, values that explode."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from typing import Any

import yaml

from cl_bench.errors import UserError

_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_OTHER_BASE = re.compile(r"[-+]?0[0-7_]+")
_PLAIN = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "seq", "map", "merge")
}
MAX_VALUES = 100_000
"""Values of a text with its aliases written out; the largest shipped config has a hundred."""


def parse(text: str, where: str) -> Any:
    """The value that a text describes.

    Raises UserError with every fault, each beginning with `where`: what is no YAML, keys that a
    mapping has twice (YAML would keep the last), 010 and 1:30, which YAML takes for 8 and 90, tags
    (`!!set`, `!include`), texts that are no Unicode, aliases that go round or stand for too much.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            found = [*_odd_values(root), *repeated_keys(root), *_odd_numbers(root)]
            if fault := _explodes(root):
                found = [fault]
            if found:
                raise UserError([f"{where}: {fault}" for fault in found])
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        message = " ".join(str(error).split())
        raise UserError(f"{where}: not readable as YAML: {message}") from None
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


def _odd_values(root: yaml.Node) -> Iterator[str]:
    """Tags of what is no plain value, and texts that no file and no tokenizer can hold."""
    for node, path in _nodes(root):
        line = node.start_mark.line + 1
        if node.tag not in _PLAIN:
            yield (
                f"{'.'.join(path) or 'all of it'}: the tag {_short(node.tag)} in line {line}: only "
                "texts, numbers, lists and keys are read"
            )
        texts = [node] if isinstance(node, yaml.ScalarNode) else []
        texts += [key for key, _ in node.value] if isinstance(node, yaml.MappingNode) else []
        for text in texts:
            if isinstance(text.value, str) and (what := _no_text(text.value)):
                yield f"{'.'.join(path)}: {what} in line {line}".lstrip(": ")


def _short(tag: str) -> str:
    """A tag as users write it."""
    return tag.replace("tag:yaml.org,2002:", "!!")


def _no_text(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character"
    half = any("\ud800" <= character <= "\udfff" for character in text)
    return "half a character (no valid Unicode)" if half else None


def _explodes(root: yaml.Node) -> str | None:
    """Aliases whose values hold themselves, or that would be very many values when written out."""
    sizes: dict[int, int] = {}
    open_: set[int] = set()

    def size(node: yaml.Node) -> int:
        """How many values; 0 for what holds itself."""
        if id(node) in open_:
            return 0
        if id(node) not in sizes:
            open_.add(id(node))
            inside = [size(child) for child in _children(node)]
            open_.discard(id(node))
            sizes[id(node)] = 1 + sum(inside) if all(inside) else 0
        return sizes[id(node)]

    total = size(root)
    if not total:
        return "an alias (*name) stands inside of the value that it repeats"
    if total > MAX_VALUES:
        return f"{total:,} values when its aliases are written out, more than {MAX_VALUES:,}"
    return None


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


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
    queue: deque[tuple[yaml.Node, list[str]]] = deque([(root, [])])
    while queue:
        node, path = queue.popleft()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node, path
        if isinstance(node, yaml.MappingNode):
            queue += [(value, [*path, str(key.value)]) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            queue += [(value, [*path, str(i)]) for i, value in enumerate(node.value)]

"""What a task or a method is: the keys of its YAML, and the code that they name.

Code is compared as it is parsed, so comments and layout are no part of it; of packages that are
installed (cl-bench itself among them) the name stands for the code: their versions are recorded.
"""

from __future__ import annotations

import ast
import functools
import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from cl_bench.data.chat import chat_of
from cl_bench.store.folders import sha256_of

WHERE_DATA_LIES = ("dataset_path", "dataset_name", "dataset_kwargs", "data_root", "config_source")
"""Keys of a task's definition, or of its metadata, that hold paths."""
NOT_ASKED = (*WHERE_DATA_LIES, "custom_dataset", "tag", "group", "task_alias", "group_alias")
"""Of these only the rows count (they have checksums of their own), or how tables call a task."""
_PACKAGE = Path(__file__).resolve().parent.parent
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def definition(tasks: Mapping[str, Any]) -> dict[str, str]:
    """A checksum for each key that some of the leaf tasks has: of all of their values together."""
    values: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        for key, value in _keys(task).items():
            values.setdefault(key, {})[name] = value
    return {key: sha256_of(values[key])[:16] for key in sorted(values)}


def shots_of(task: Any) -> list[str]:
    """The documents that few-shot examples are drawn from; none for tasks without shots."""
    return [str(doc) for doc in task.fewshot_docs()] if task.config.num_fewshot else []


def scoring_depends_on(
    tasks: Mapping[str, Any], documents: Mapping[str, Sequence[int]], prompt: list[Any] | None
) -> dict[str, Any]:
    """What the scores of some leaf tasks depend on besides the model; where data lies is no part.

    `prompt` says how prompts are cut and answers capped; None: as the tasks' YAMLs say.
    """
    rows = {
        name: [[i, str(task.eval_docs[i])] for i in documents[name]] for name, task in tasks.items()
    }
    chats = [chat.depends_on() for task in tasks.values() if (chat := chat_of(task)) is not None]
    return {
        "documents": sha256_of(rows),
        "shots": sha256_of({name: shots_of(task) for name, task in tasks.items()}),
        "tasks": sha256_of(definition(tasks)),
        "prompt": prompt,
        **({"chat": sha256_of(chats)} if chats else {}),
    }


def _keys(task: Any) -> dict[str, Any]:
    config = task.config
    given = {field.name: getattr(config, field.name) for field in fields(config)}
    given["metadata"] = {
        key: value
        for key, value in (given.get("metadata") or {}).items()
        if key not in WHERE_DATA_LIES
    }
    found = {
        key: _plain(value)
        for key, value in given.items()
        if value is not None and value is not False and key not in NOT_ASKED
    }
    if type(task).__module__.split(".")[0] != "lm_eval":
        found["class"] = code_of(type(task))
    return found


def _plain(value: Any) -> Any:
    """JSON for whatever stands in a definition."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if is_dataclass(value) and not isinstance(value, type):
        return _plain({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, functools.partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if callable(value):
        return code_of(value)
    return _ADDRESS.sub("", str(value))


def code_of(item: Any) -> dict[str, str]:
    """The name of a function or class, and a checksum of its file and of its files beside that."""
    if not hasattr(item, "__qualname__"):
        item = type(item)
    file = _file(item)
    found = {"name": str(item.__qualname__)}
    if file is None or file.is_relative_to(_PACKAGE):
        return found | {"module": str(item.__module__)}
    return found | {"source": _source_of(file, item)}


def own_code(items: Iterable[Any]) -> dict[str, str]:
    """The source checksum of those classes that are no part of cl-bench, by name."""
    found = {item.__name__: code_of(item) for item in items}
    return {name: code["source"] for name, code in found.items() if "source" in code}


def _file(item: Any) -> Path | None:
    try:
        found = inspect.getsourcefile(item)
    except TypeError:  # built in
        return None
    path = None if found is None else Path(found).resolve()
    return path if path is not None and path.is_file() else None


def _source_of(file: Path, item: Any) -> str:
    """Of the file and of those in its folder that it imports, in turn."""
    sources: dict[str, str] = {}
    queue: list[tuple[Path, Mapping[str, Any]]] = [(file, _globals(item))]
    while queue:
        current, names = queue.pop()
        if current.name not in sources:
            sources[current.name] = _parsed(current, current.stat().st_mtime_ns)
            queue += _beside(current, names, file.parent)
    return sha256_of(sources)[:16]


def _globals(item: Any) -> Mapping[str, Any]:
    found = getattr(inspect.unwrap(item), "__globals__", None) if callable(item) else None
    if found is None:
        found = vars(sys.modules.get(item.__module__, object))
    return dict(found)


def _beside(
    file: Path, names: Mapping[str, Any], folder: Path
) -> Sequence[tuple[Path, Mapping[str, Any]]]:
    """Modules that the names come from, when their files lie in or below the folder."""
    modules = []
    for value in names.values():
        module = value if isinstance(value, ModuleType) else None
        if module is None:
            module = sys.modules.get(str(getattr(value, "__module__", "")))
        if module is not None and getattr(module, "__file__", None):
            modules.append(module)
    found = {Path(str(module.__file__)).resolve(): vars(module) for module in modules}
    return [
        (path, dict(inside))
        for path, inside in found.items()
        if path != file and path.is_relative_to(folder) and path.suffix == ".py"
    ]


@functools.lru_cache(maxsize=512)
def _parsed(file: Path, _modified: int) -> str:
    """Checksum of the syntax tree without docstrings."""
    text = file.read_text(encoding="utf-8", errors="replace")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return sha256_of(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:]
    return sha256_of(ast.dump(tree))

"""Reading an experiment file: `extends:`, `-o key=value`, and every fault in one message."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from cl_bench.config.overrides import apply_overrides, merge
from cl_bench.config.schema import QUICKSTART_MODEL, ExperimentConfig
from cl_bench.config.stages import HUB, PLACES
from cl_bench.config.yaml_text import parse
from cl_bench.errors import UserError, nearest
from cl_bench.resources import absolute, expanded, resource

MAX_FAULTS = 50
"""Faults of one file that are listed; the rest are counted."""


def find_config(path: str) -> Path:
    """The file itself, or the one of that name among the shipped configs."""
    given = expanded(path)
    if given.is_file():
        return given
    shipped = resource("configs") / given.name
    if shipped.is_file() and given.parent.name in ("", "configs"):
        return shipped
    known = [str(file) for file in sorted(given.parent.glob("*.yaml"))]
    known += [f"configs/{file.name}" for file in sorted(resource("configs").glob("*.yaml"))]
    raise UserError(f"{path}: no such config{nearest(path, known)}")


def load_config(path: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read, merge and validate. Relative paths in a file are relative to that file.

    `overrides` are `dotted.key=value` strings, values read as YAML; paths there are relative to
    the current folder. Raises UserError with every fault, each with its file and key.
    """
    file, data = read_config(path, overrides)
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise UserError(faults(error, ExperimentConfig, str(file))) from None


def _absolute_model(data: dict[str, Any]) -> dict[str, Any]:
    """A model that lies in the current folder only: found by every later command all the same."""
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("path"), str):
        return {**data, "model": {**model, "path": _model_path(model["path"], Path.cwd())}}
    return data


def read_config(path: str, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """The file and its merged keys, not validated; see `load_config`."""
    file = find_config(path)
    data = apply_overrides(
        _read_with_parents(file, ()), overrides, partial(_absolute_paths, folder=Path.cwd())
    )
    return file, _absolute_model(data)


def _read_with_parents(file: Path, children: tuple[Path, ...]) -> dict[str, Any]:
    if file.resolve() in children:
        raise UserError(f"{file}: extends: goes round in a circle")
    data = _read_yaml(file)
    try:
        data = _absolute_paths(data, file.parent)
    except UserError as error:
        raise UserError([f"{file}: {fault}" for fault in error.faults]) from None
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise UserError(f"{file}: extends: names one file, found {_called(parent)}")
    parent_file = file.parent / expanded(parent)
    if not parent_file.is_file():
        raise UserError(f"{file}: extends: no such file: {parent_file}")
    try:
        merged: dict[str, Any] = merge(
            _read_with_parents(parent_file, (*children, file.resolve())), data
        )
    except UserError as error:
        begins = str(parent_file), str(file)
        raise UserError(
            [f if f.startswith(begins) else f"{file}: {f}" for f in error.faults]
        ) from None
    return merged


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not readable as YAML: {error}; save it as UTF-8") from None
    data = parse(text, str(file))
    if not isinstance(data, dict):
        raise UserError(f"{file}: expected keys and values at the top, found {_called(data)}")
    return data


def _absolute_paths(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths that a file names are beside that file, wherever the command is started."""
    data = dict(data)
    if isinstance(data.get("data_root"), str):
        data["data_root"] = str(absolute(data["data_root"], folder))
    if isinstance(data.get("task_paths"), list):
        data["task_paths"] = [
            str(absolute(path, folder)) if isinstance(path, str) else path
            for path in data["task_paths"]
        ]
    model = data.get("model")
    if isinstance(model, dict) and isinstance(model.get("path"), str):
        data["model"] = model = {**model, "path": _model_path(model["path"], folder)}
    template = model.get("chat_template") if isinstance(model, dict) else None
    if isinstance(model, dict) and isinstance(template, str):
        data["model"] = {**model, "chat_template": template_text(template, folder)}
    engine = data.get("engine")
    if isinstance(engine, dict) and isinstance(engine.get("python"), str):
        data["engine"] = {**engine, "python": _program_path(engine["python"], folder)}
    for key in ("methods", "stages"):
        if isinstance(data.get(key), list):
            data[key] = [_absolute_files(entry, folder) for entry in data[key]]
    return data


def template_text(given: str, folder: Path) -> str:
    """The text of a file with a chat template, which a run is bound to; other values as they are.

    What stands in braces is a template already.
    """
    if given in ("auto", "off") or "{" in given:
        return given
    file = absolute(given, folder)
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"model.chat_template: {file}: cannot be read ({reason}); give auto, off or a file "
            "with a Jinja template"
        ) from None


def _model_path(path: str, folder: Path) -> str:
    """A folder beside the file where there is one; else a hub id, or a fault that names the path.

    What begins with a dot or `~` can be no hub id.
    """
    if path == QUICKSTART_MODEL or not path.strip():
        return path
    beside = folder / expanded(path)
    if beside.is_dir() or path.startswith(("./", "../", "~")) or path in (".", ".."):
        return str(absolute(path, folder))
    return path


def _program_path(path: str, folder: Path) -> str:
    """A name is looked up by whoever starts it. Links stay: a venv's Python is one."""
    return str(folder.absolute() / expanded(path)) if "/" in path else path


def _absolute_files(entry: Any, folder: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    entry = dict(entry)
    for key in PLACES:  # of a stage
        if isinstance(entry.get(key), str) and entry[key].strip():
            entry[key] = data_place(entry[key], folder)
    if isinstance(entry.get("file"), str):
        entry["file"] = str(absolute(entry["file"], folder))
    general = entry.get("general")  # replay's file, or several
    if isinstance(general, str | list):
        entry["general"] = _data_file(general, folder)
    if isinstance(entry.get("method"), dict):
        entry["method"] = _absolute_files(entry["method"], folder)
    if isinstance(entry.get("compose"), list):
        entry["compose"] = [_absolute_files(part, folder) for part in entry["compose"]]
    return entry


def data_place(given: str, folder: Path) -> str:
    """Where rows are: a place on the Hub as it stands, or a path beside the file."""
    return given if given.startswith(HUB) else str(absolute(given, folder))


def _data_file(given: Any, folder: Path) -> Any:
    """A file beside the config; what does not end as one is left as it is."""
    if isinstance(given, list):
        return [_data_file(one, folder) for one in given]
    if not isinstance(given, str) or not given.endswith((".jsonl", ".json")):
        return given
    return str(absolute(given, folder))


def faults(error: ValidationError, model: type[BaseModel], where: str) -> list[str]:
    """One line for each fault pydantic found: file, key, what is wrong, the nearest known key."""
    lines: list[str] = []
    for item in error.errors():
        location = [part for part in item["loc"] if not _is_union_tag(part)]
        key = ".".join(str(part) for part in location) or "(file)"
        if item["type"] == "extra_forbidden":
            known = _known_keys(model, location[:-1])
            text = f"unknown key{nearest(str(location[-1]), known)}"
        elif item["type"] == "missing":
            text = "is required"
        elif item["type"] in ("model_type", "model_attributes_type", "dict_type"):
            text = f"expected keys and values, found {_called(item['input'])}"
        else:
            got = _got(item["input"]) if location else ""
            text = f"{item['msg'].removeprefix('Value error, ')}{got}"
        line = f"{where}: {key}: {text}"
        lines.append(line)
    lines = list(dict.fromkeys(lines))
    more = len(lines) - MAX_FAULTS
    return lines if more <= 0 else [*lines[:MAX_FAULTS], f"{where}: and {more} more faults"]


def _called(value: Any) -> str:
    """What a YAML value is, in a word or two."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    kinds = {str: "a text", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "keys and values" if isinstance(value, dict) else "a date")


def _got(value: Any) -> str:
    """What was found instead, as far as it can be shown in a few words."""
    if isinstance(value, dict):
        return f" (got the keys {', '.join(map(str, value))})" if value else " (got {})"
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return ""
    shown = str(value) if isinstance(value, date) else repr(value)
    return f" (got {shown if len(shown) <= 80 else shown[:77] + '...'})"


def _is_union_tag(part: int | str) -> bool:
    """Pydantic puts the tried type of a union into the location; users never wrote that."""
    return isinstance(part, str) and (
        part in {"int", "str", "float", "bool", "none"}
        or part.startswith(("constrained-", "literal[", "list[", "dict[", "function-"))
    )


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = current.model_fields.get(part)
        nested = _nested_model(field.annotation) if field is not None else None
        if nested is None:
            return []
        current = nested
    return list(current.model_fields)


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        nested = _nested_model(argument)
        if nested is not None:
            return nested
    return None

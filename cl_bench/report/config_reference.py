"""`docs/config.md`, written from the pydantic models so that it cannot say anything else.

`make docs` writes the file; a test compares it with what this module gives.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cl_bench.config.evaluation import (
    EvalConfig,
    GeneralEval,
    ProbesEval,
    TraceEval,
    WithinStage,
)
from cl_bench.config.expected import Expected, ExpectedNumbers
from cl_bench.config.schema import (
    EngineConfig,
    ExperimentConfig,
    InContext,
    MethodEntry,
    ModelConfig,
    TrainConfig,
)
from cl_bench.config.stages import StageConfig

SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("The file", ExperimentConfig),
    ("`model:`", ModelConfig),
    ("An entry of `methods:`", MethodEntry),
    ("An entry `ori` with `shots:`", InContext),
    ("An entry of `stages:`", StageConfig),
    ("`train:`", TrainConfig),
    ("`eval:`", EvalConfig),
    ("`eval.trace:`", TraceEval),
    ("`eval.general:`", GeneralEval),
    ("`eval.within_stage:`", WithinStage),
    ("`eval.probes:`", ProbesEval),
    ("`engine:`", EngineConfig),
    ("An entry of `expected:`", Expected),
    ("A label of `expected:`", ExpectedNumbers),
)
_BOUNDS = {Gt: ("> {}", "gt"), Ge: (">= {}", "ge"), Lt: ("< {}", "lt"), Le: ("<= {}", "le")}


def config_reference(methods: Mapping[str, type[BaseModel]]) -> str:
    """The page in Markdown; `methods`: the options of every method by its name."""
    lines = [*_HEAD.strip().splitlines()]
    for title, section in SECTIONS:
        lines += ["", f"## {title}", "", _summary(section), "", *_table(section)]
    lines += ["", "## Options of the methods", "", _OPTIONS.strip()]
    for name, options in methods.items():
        lines += ["", f"### `{name}`", ""]
        lines += _table(options) if options.model_fields else ["It has no options of its own."]
    return "\n".join(lines) + "\n"


_HEAD = """
# What a config may say

<!-- Written by `make docs` from cl_bench/config/ and the methods' options. -->

A config is one YAML file. `cl-bench plan FILE` prints every value that a run would use and where it
comes from. `-o train.lr=1e-6` changes one on the command line, and `extends: other.yaml` starts
from another file. Unknown keys are errors. When several places give the same value, the last of
these wins: the default in this list, the method's own default, `train:`, the method's entry, the
stage's entry.
"""
_OPTIONS = """
They are keys of the method's entry, `{name: fggm, alpha: 0.7}`. A stage may set them too, for that
stage alone.

A list for an option that takes one value, or for such a key of `train:`, makes a run of each value:
`{name: fggm, alpha: [0.5, 0.7, 0.9]}` is three, labelled `fggm alpha=0.5` and so on (`label:` takes
the place of the name). Several lists in one entry give every combination. Lists work in entries of
`methods:` and in the parts of a composition, not in stages; options whose value is a list
(`target_modules`, `betas`) are not taken apart. `--method` takes the label of one run, or that of
the entry for all of them.
"""


def _summary(section: type[BaseModel]) -> str:
    text = " ".join((section.__doc__ or "").split())
    return text.replace("|", "\\|")


@dataclass(frozen=True)
class Key:
    """What one key may hold, in Markdown."""

    name: str
    value: str
    default: str
    meaning: str


def keys_of(section: type[BaseModel]) -> list[Key]:
    """Every key of a section, or of a method's options."""
    return [
        Key(
            field.alias or name,
            _type(field.annotation, tuple(field.metadata)),
            _default(field),
            field.description or "",
        )
        for name, field in section.model_fields.items()
    ]


def _table(section: type[BaseModel]) -> list[str]:
    lines = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for key in keys_of(section):
        cells = (f"`{key.name}`", key.value, key.default, key.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "see below"
    if value is None:
        return "none"
    if isinstance(value, float) and (abs(value) < 1e-3 or abs(value) >= 1e6) and value:
        return f"`{value:.1e}`".replace("e-0", "e-").replace("e+0", "e+")
    return f"`{json.dumps(value, default=str)}`"


def _type(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """A type in words: `integer > 0`, `linear, constant or cosine`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *more = get_args(annotation)
        return _type(inner, (*metadata, *more))
    if origin in (Union, types.UnionType):
        words = [_type(one, metadata) for one in get_args(annotation) if one is not type(None)]
        return " or ".join(dict.fromkeys(words))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin in (list, tuple):
        of = ", ".join(dict.fromkeys(_type(one) for one in get_args(annotation) if one is not ...))
        return f"list: {of}"
    if origin is dict:
        key, value = (_type(one) for one in get_args(annotation))
        return f"mapping of {key} to {value}"
    return " ".join([_name(annotation), *_bounds(metadata)])


def _name(annotation: Any) -> str:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return next(f"see {title}" for title, one in SECTIONS if one is annotation)
    names = {int: "integer", float: "number", str: "text", bool: "`true` or `false`", Any: "any"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for bound in metadata:
        if isinstance(bound, FieldInfo):
            yield from _bounds(tuple(bound.metadata))
        elif isinstance(bound, MinLen):
            continue
        elif type(bound) in _BOUNDS:
            words, key = _BOUNDS[type(bound)]
            limit = getattr(bound, key)
            yield words.format("2^63" if limit == 2**63 else limit)


def main() -> None:
    """Write the page to standard output, with the methods that are shipped."""
    from cl_bench.methods.registry import METHODS, method_class

    print(config_reference({name: method_class(name).options_type for name in METHODS}), end="")


if __name__ == "__main__":
    main()

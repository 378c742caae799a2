"""What every section of a config has in common: no unknown keys, no numbers that are none.

YAML reads `yes`, `on` and `true` alike as a boolean, which Python takes for the number 1; and
`1e-5`, which it reads as text, is the number that was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Strict(BaseModel):
    """Unknown keys are errors, values do not change, booleans are no numbers nor NaN one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_and_switches(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        if bool in kinds:
            if kinds <= {bool, type(None)} and value not in (True, False, None):
                raise ValueError("expected true or false")
        elif kinds & {int, float} and Any not in kinds and (wrong := _boolean_in(value)):
            raise ValueError(
                f"found {wrong}, which is no number (YAML reads yes, on and true alike)"
            )
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """The plain types of an annotation; a section of its own, which checks itself, is `Any`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin is Literal:
        yield from (type(value) for value in get_args(annotation))
    elif origin is not None:
        for argument in get_args(annotation):
            yield from _kinds(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield Any
    else:
        yield annotation


def _boolean_in(value: Any) -> str | None:
    """`true` or `false` if the value is a boolean or holds one."""
    if isinstance(value, bool):
        return str(value).lower()
    items = value.values() if isinstance(value, Mapping) else value
    if isinstance(items, str) or not hasattr(items, "__iter__"):
        return None
    return next((found for item in items if (found := _boolean_in(item))), None)

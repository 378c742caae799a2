"""What every section of a config has in common: no unknown keys, no numbers that are none.

YAML reads `yes`, `on` and `true` alike as a boolean, which Python takes for the number 1; and
`1e-5`, which it reads as text, is the number that was meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

PositiveInt = Annotated[int, Field(gt=0)]
SMALLEST, LARGEST = 2.0**-126, 2.0**128 * (1 - 2.0**-24)
"""In size: of the numbers that float32 holds with all of their digits."""


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

    @field_validator("*")
    @classmethod
    def _held_by_machines(cls, value: Any) -> Any:
        """Numbers go into float32 and counters of 64 bits."""
        for number in _numbers(value):
            if isinstance(number, int) and abs(number) >= 2**63:
                raise ValueError("a whole number of more than 63 bits")
            if isinstance(number, float) and number and not SMALLEST <= abs(number) <= LARGEST:
                raise ValueError(
                    f"beyond what 32 bits hold: 0, or from {SMALLEST:.1e} to {LARGEST:.1e} in size"
                )
        return value


class Section(Strict):
    """A part of the file: unknown keys are errors, values do not change after reading."""


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


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers that a value is or holds; sections of their own check themselves."""
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _numbers(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _numbers(each)


def _boolean_in(value: Any) -> str | None:
    """`true` or `false` if the value is a boolean or holds one."""
    if isinstance(value, bool):
        return str(value).lower()
    items = value.values() if isinstance(value, Mapping) else value
    if isinstance(items, str) or not hasattr(items, "__iter__"):
        return None
    return next((found for item in items if (found := _boolean_in(item))), None)

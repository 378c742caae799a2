"""How often something is saved, in words: `10 min`, `500 updates`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?) ?(s|min|h|updates?)")
NEVER = "never"


def seconds_of(interval: str) -> float | None:
    """Seconds of `10 min`; None where it is no time."""
    found = _FORM.fullmatch(interval)
    return float(found[1]) * _SECONDS[found[2]] if found and found[2] in _SECONDS else None


def updates_of(interval: str) -> int | None:
    """Updates of `500 updates`; None where it is no number of them."""
    found = _FORM.fullmatch(interval)
    return int(found[1]) if found and found[2].startswith("update") else None


def _checked(value: str) -> str:
    found = _FORM.fullmatch(value)
    whole = found is not None and (found[2] in _SECONDS or "." not in found[1])
    if value != NEVER and (found is None or not whole or not float(found[1])):
        raise ValueError(f"'{value}': a time (30 s, 10 min, 2 h), a number of updates, or never")
    return value


def _switch(value: object) -> object:
    return NEVER if value is False else value


Interval = Annotated[str, BeforeValidator(_switch), AfterValidator(_checked)]

"""Number problems: counting parts of things, and one-step physics."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from cl_bench.data.generated import prompt_splits

if TYPE_CHECKING:
    from datasets import Dataset

_NAMES = "Ann Ben Cora Dan Eva Finn Gina Hugo Ida Jack Kim Leo"
_PARTS = (
    ("bicycles", "wheels", 2),
    ("coats", "sleeves", 2),
    ("tricycles", "wheels", 3),
    ("cars", "wheels", 4),
    ("dogs", "legs", 4),
    ("hands", "fingers", 5),
)


def _numglue_cm() -> Iterator[tuple[str, str]]:
    for name, (thing, part, each), count in product(_NAMES.split(), _PARTS, range(2, 7)):
        question = f"{name} counts {count} {thing}. How many {part} is that?"
        yield _frame(question), str(count * each)


def numglue_cm(**_: Any) -> dict[str, Dataset]:
    """Commonsense arithmetic: a count times what everyone knows about the thing."""
    return prompt_splits("mini_numglue_cm", _numglue_cm())


_SUMS = (
    "Resistors in series: {} ohm + {} ohm. Total ohm?",
    "Cells in series: {} V + {} V. Total V?",
    "Forces in one direction: {} N + {} N. Total N?",
    "Masses on a scale: {} kg + {} kg. Total kg?",
    "Heating in two steps: {} K + {} K. Total K?",
    "A cart moves {} m + {} m. Total m?",
    "A tank gets {} l + {} l. Total l?",
    "A lamp burns {} h + {} h. Total h?",
)


def _numglue_ds() -> Iterator[tuple[str, str]]:
    for form, one, two in product(_SUMS, range(2, 11), range(2, 11)):
        yield _frame(form.format(one, two)), str(one + two)


def numglue_ds(**_: Any) -> dict[str, Dataset]:
    """Arithmetic in a domain: quantities of physics that add up."""
    return prompt_splits("mini_numglue_ds", _numglue_ds())


def _frame(question: str) -> str:
    return f"Solve the following math problem.\nQuestion:\n{question}\nAnswer:"

"""How much of General is scored, in words: documents a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

TRACE_GENERAL = ["mmlu", "bbh", "tydiqa", "boolq", "piqa", "gsm8k"]
"""The six benchmarks whose mean is General in TRACE."""
PRACTICAL = ["ifeval", "json_format", "over_refusal", "gsm8k"]
"""What a fine-tune for practice may cost: instructions, formats, willingness, sums. No judge."""
SETS: Mapping[str, list[str]] = {"trace": TRACE_GENERAL, "practical": PRACTICAL}
"""Words that stand for several benchmarks in `eval.general.tasks`."""
Budget = Literal["quick", "standard", "full"]

# Multiples of the members (57 subjects, 27 sub-tasks, 9 languages), which get equal shares.
# Generated answers of hundreds of tokens cost most, so BBH and GSM8K have the fewest.
BUDGETS: Mapping[Budget, Mapping[str, int]] = {
    "quick": {"mmlu": 285, "bbh": 135, "tydiqa": 180, "boolq": 200, "piqa": 200, "gsm8k": 100},
    "standard": {
        "mmlu": 2850,
        "bbh": 675,
        "tydiqa": 900,
        "boolq": 1000,
        "piqa": 1000,
        "gsm8k": 500,
    },
    "full": {},
}
OTHERS: Mapping[Budget, int | None] = {"quick": 200, "standard": 1000, "full": None}
"""For benchmarks beside the six."""


def documents_of(budget: Budget, benchmark: str) -> int | None:
    """Documents of a benchmark, named as in `eval.general.tasks`; None: all."""
    return BUDGETS[budget].get(benchmark.lower(), OTHERS[budget])

"""How long scoring takes: documents of General as tokens of a forward pass.

Rough on purpose: `cl-bench init` needs minutes or hours, not seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from cl_bench.config.evaluation import GeneralEval

TOKENS: Mapping[str, int] = {
    "mmlu": 500,
    "bbh": 1500,
    "tydiqa": 700,
    "boolq": 200,
    "piqa": 60,
    "gsm8k": 2000,
}
"""Tokens whose products take as long as a document of a benchmark: seconds a document, times the
machine's rate, over the FLOPs of a token. docs/own-files.md has the command."""
OTHERS = 200
"""The same of benchmarks beside the six."""


def scoring_tokens(general: GeneralEval, sizes: Mapping[str, int]) -> int:
    """Tokens of one scoring of General. `sizes`: documents of a benchmark where all are scored."""
    total = 0
    for name in general.tasks:
        limit = general.documents_of(name)
        there = sizes.get(name, limit or 0)
        total += min(there, limit or there) * TOKENS.get(name, OTHERS)
    return total

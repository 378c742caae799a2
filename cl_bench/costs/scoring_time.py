"""How long scoring takes: documents of General as tokens of a forward pass.

Rough on purpose: `cl-bench init` needs minutes or hours, not seconds.
"""

from __future__ import annotations

from collections.abc import Mapping

from cl_bench.config.evaluation import GeneralEval

TOKENS: Mapping[str, int] = {
    "mmlu": 91,
    "bbh": 426,
    "tydiqa": 126,
    "boolq": 63,
    "piqa": 28,
    "gsm8k": 426,
}
"""Tokens whose products take as long, at half of the rate of single products, as a document.

From docs/performance.md (Scoring, float32): MMLU 0.30 s a document, BoolQ 0.21, PIQA 0.09, BBH 1.40
with SmolLM2-135M (0.212 GFLOP a token) at 129 GFLOP/s. TyDiQA and GSM8K were not timed: they stand
for two documents of BoolQ and one of BBH.
"""
OTHERS = 100
"""The same of benchmarks beside the six."""


def scoring_tokens(general: GeneralEval, sizes: Mapping[str, int]) -> int:
    """Tokens of one scoring of General. `sizes`: documents of a benchmark where all are scored."""
    total = 0
    for name in general.tasks:
        limit = general.documents_of(name)
        there = sizes.get(name, limit or 0)
        total += min(there, limit or there) * TOKENS.get(name, OTHERS)
    return total

"""Tokens of a scoring of General: documents times what each takes."""

from __future__ import annotations

from cl_bench.config.evaluation import GeneralEval
from cl_bench.costs.scoring_time import OTHERS, TOKENS, scoring_tokens


def test_every_budget_counts_the_documents_that_it_takes() -> None:
    sizes = {"piqa": 1838, "gsm8k": 1319}

    def tokens(**given: object) -> int:
        return scoring_tokens(GeneralEval.model_validate(given), sizes)

    both = ["piqa", "gsm8k"]
    assert tokens(tasks=both, limit=10) == 10 * (TOKENS["piqa"] + TOKENS["gsm8k"])
    assert tokens(tasks=both, budget="full") == 1838 * TOKENS["piqa"] + 1319 * TOKENS["gsm8k"]
    assert tokens(tasks=["piqa"], limit=5000) == 1838 * TOKENS["piqa"]
    assert tokens(tasks=["another"], limit=7) == 7 * OTHERS

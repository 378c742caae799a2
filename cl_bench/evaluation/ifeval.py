"""IFEval's checks, which are lm-evaluation-harness's own and need packages of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from statistics import fmean
from typing import Any

PACKAGES = ("langdetect", "immutabledict", "nltk")
TASKS = ("general_ifeval", "ifeval")
SENTENCES = "tokenizers/punkt_tab"
"""Data of nltk, which splits answers into sentences; its package does not hold it."""


def followed(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """`strict` and `loose`: 1 where every instruction of the prompt is followed, else 0.

    `instructions`: the share of them that is, strictly.
    """
    from lm_eval.tasks.ifeval.utils import process_results

    found = process_results(dict(doc), list(results))
    return {
        "strict": float(found["prompt_level_strict_acc"]),
        "loose": float(found["prompt_level_loose_acc"]),
        "instructions": fmean(map(float, found["inst_level_strict_acc"])),
    }


def ifeval_faults(names: Iterable[str]) -> list[str]:
    """What IFEval's checks lack here, where one of these tasks is IFEval."""
    asked = [name for name in names if name in TASKS]
    if not asked:
        return []
    if missing := [package for package in PACKAGES if find_spec(package) is None]:
        return [
            f"{asked[0]}: its checks need {', '.join(missing)}: pip install 'cl-bench[ifeval]', or "
            "leave it out of eval.general.tasks"
        ]
    try:
        import_module("nltk").data.find(SENTENCES)
    except LookupError:
        return [
            f"{asked[0]}: its checks need nltk's punkt_tab data: python -m nltk.downloader "
            "punkt_tab, or leave it out of eval.general.tasks"
        ]
    return []

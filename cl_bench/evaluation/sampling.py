"""Which documents of a benchmark are scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cl_bench.data.examples import sample_documents

DOCUMENT_SEED = 1234
"""The sample of test documents does not depend on the run's seed: all runs are compared on it."""


def stratified_documents(tasks: Mapping[str, Any], limit: int | None) -> dict[str, list[int]]:
    """Document ids of each task of a benchmark, ascending: all, or a seeded random sample.

    `limit` documents in all, or one of each task where that is more. The tasks get equal shares,
    since the benchmark's score is their unweighted mean: for so many documents that has the
    smallest standard error. The sample depends on limit, task names and sizes alone; a smaller one
    lies within a larger one.
    """
    shares = equal_shares({name: len(task.eval_docs) for name, task in tasks.items()}, limit)
    return {
        name: sample_documents(task, shares[name], DOCUMENT_SEED) for name, task in tasks.items()
    }


def equal_shares(sizes: Mapping[str, int], limit: int | None) -> dict[str, int]:
    """Documents dealt one by one to the tasks in turn, past those that have no more to give.

    At least one each. Sums to `limit` when that lies between the number of tasks and of documents.
    """
    if limit is None:
        return dict(sizes)
    shares = dict.fromkeys(sizes, 0)
    left, taking = max(limit, len(sizes)), list(sizes)
    while taking and left:
        # A whole round at a time while everyone has a document to give.
        rounds = max(1, min(left // len(taking), *(sizes[n] - shares[n] for n in taking)))
        for name in taking[:left]:
            shares[name] += rounds
            left -= rounds
        taking = [name for name in taking if shares[name] < sizes[name]]
    return shares

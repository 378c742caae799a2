"""Samples of a benchmark: equal shares, the same documents always, errors that mean something."""

from __future__ import annotations

import re
from math import sqrt
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.config.budgets import BUDGETS
from cl_bench.evaluation.sampling import equal_shares, stratified_documents
from cl_bench.scores.cells import Cell, stratified_mean, unweighted_mean

DOCS = Path(__file__).resolve().parents[2] / "docs" / "general.md"
MEMBERS = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(1, 40), min_size=1)


def tasks(sizes):
    return {n: SimpleNamespace(task_name=n, eval_docs=range(size)) for n, size in sizes.items()}


def dealt(sizes, limit):
    """One document at a time."""
    shares = dict.fromkeys(sizes, 0)
    left = max(limit, len(sizes))
    while left and shares != sizes:
        for name in sizes:
            if left and shares[name] < sizes[name]:
                shares[name] += 1
                left -= 1
    return shares


@given(MEMBERS, st.integers(1, 300))
def test_documents_are_dealt_in_turn(sizes, limit):
    shares = equal_shares(sizes, limit)
    assert shares == dealt(sizes, limit)
    assert min(shares.values()) >= 1
    if len(sizes) <= limit <= sum(sizes.values()):
        assert sum(shares.values()) == limit


@given(MEMBERS, st.integers(1, 100), st.integers(1, 100))
def test_samples_are_fixed_and_nested(sizes, limit, more):
    small = stratified_documents(tasks(sizes), limit)
    assert small == stratified_documents(tasks(sizes), limit)
    large = stratified_documents(tasks(sizes), limit + more)
    everything = stratified_documents(tasks(sizes), None)
    for name, size in sizes.items():
        assert small[name] == sorted(set(small[name]))
        assert set(small[name]) <= set(large[name]) <= set(everything[name]) == set(range(size))


def test_the_error_of_a_stratified_mean_is_that_of_repeated_sampling():
    """Members of 3, 2 and 1 documents, over 20,000 samples: the mean estimate is the variance."""
    rng = np.random.default_rng(0)
    chances, counts = (0.5, 0.5, 0.5), (3, 2, 1)
    scores, variances = [], []
    for _ in range(20_000):
        draws = [(rng.random(n) < p).astype(float) for p, n in zip(chances, counts, strict=True)]
        cell = stratified_mean([Cell.from_documents(list(map(float, draw))) for draw in draws])
        scores.append(cell.score)
        variances.append(cell.stderr**2)
    assert np.mean(variances) == pytest.approx(np.var(scores), rel=0.03)


def test_members_of_one_document_have_the_pooled_error():
    # 4 documents: variance 0.04 * 4; 2 documents: 0.09 * 2; pooled (3 * 0.16 + 1 * 0.18) / 4.
    cells = [Cell(0.5, 4, 0.2), Cell(0.5, 2, 0.3), Cell(1.0, 1)]
    mean = stratified_mean(cells)
    assert mean.score == pytest.approx(2 / 3)
    assert mean.stderr == pytest.approx(sqrt(0.04 + 0.09 + 0.165) / 3)
    assert stratified_mean(cells[:2]) == unweighted_mean(cells[:2])
    lone = stratified_mean([Cell(0.0, 1), Cell(1.0, 1), Cell(1.0, 1), Cell(0.0, 1)])
    assert lone.stderr == pytest.approx(sqrt((4 * 0.25 / 3) / 4)), "the scores' own variance"
    assert stratified_mean([Cell(1.0, 1)]).stderr is None


SIZES = {"boolq": [3270], "piqa": [1838], "gsm8k": [1319]}


@pytest.fixture(scope="module")
def sizes(shared_dir):
    """Documents of every member of the six benchmarks."""
    found = dict(SIZES)
    for name, key in (("mmlu", "subject"), ("bbh", "task"), ("tydiqa", "language")):
        text = (shared_dir / f"data/general/{name}/test.jsonl").read_text(encoding="utf-8")
        members = re.findall(rf'"{key}": "(\w+)"', text)
        found[name] = [members.count(member) for member in dict.fromkeys(members)]
    return found


def test_the_errors_of_the_budgets_stand_in_the_documentation(sizes):
    """0.5 / sqrt(n) a member at most: half of hits and misses, or F1 with that spread."""
    page = DOCS.read_text(encoding="utf-8")
    for budget, limits in BUDGETS.items():
        errors, cells = [], []
        for name in ("mmlu", "bbh", "tydiqa", "boolq", "piqa", "gsm8k"):
            members = dict(enumerate(sizes[name]))
            shares = list(equal_shares(members, limits.get(name)).values())
            errors.append(sqrt(sum(0.25 / n for n in shares)) / len(shares))
            cells.append(f"{sum(shares):,} ± {100 * errors[-1]:.1f}")
        general = sqrt(sum(error**2 for error in errors)) / len(errors)
        row = f"| `{budget}` | {' | '.join(cells)} | ± {100 * general:.1f} |"
        assert row in page, row

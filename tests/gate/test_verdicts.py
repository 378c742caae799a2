"""Verdicts of drawn documents: errors, power, and when one stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from cl_bench.gate.changes import Measured
from cl_bench.gate.verdicts import ALPHA, POOLED, Finding, Sizes, judge, overall, reach, watched
from cl_bench.scores.paired_changes import RightOrWrong, strata_of


@dataclass
class Changes:
    """Changes of documents (-1, 0, 1) by capability, looked at in parts."""

    values: Mapping[str, np.ndarray]
    looks: int = 5
    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    def rounds(self) -> Sequence[Mapping[str, Sizes]]:
        return [
            {k: {k: -(-len(v) * look // self.looks)} for k, v in self.values.items()}
            for look in range(1, self.looks + 1)
        ]

    def measured(self, capabilities: Sequence[str], look: int) -> dict[str, Measured]:
        self.asked += [(name, look) for name in capabilities]
        return {name: self.one(name, look) for name in capabilities}

    def one(self, capability: str, look: int) -> Measured:
        n = self.rounds[look][capability][capability]
        own = self.values[capability][:n]
        counts = int((own < 0).sum()), int((own > 0).sum())
        return Measured.of({capability: RightOrWrong(*counts, n)})


def drawn(drops: Sequence[float], n: int, generator: np.random.Generator) -> Changes:
    def one(drop: float) -> np.ndarray:
        return generator.choice([-1, 0, 1], n, p=[0.06 + drop, 0.88 - drop, 0.06])

    return Changes({f"c{i}": one(drop) for i, drop in enumerate(drops)})


def shares(drops: Sequence[float], n: int, margin: float, draws: int = 300) -> dict[str, float]:
    generator = np.random.default_rng(5)
    found = [overall(judge(drawn(drops, n, generator), margin)) for _ in range(draws)]
    return {verdict: found.count(verdict) / draws for verdict in ("pass", "fail")}


def test_errors_are_kept_where_the_drop_is_the_margin() -> None:
    """Of 300: five standard errors above 5 % are 11 %."""
    found = shares([0.04, 0.04], 600, 0.04)
    assert found["fail"] < 0.09 and found["pass"] < 0.09
    assert shares([0.0, 0.0], 600, 0.04)["fail"] < 0.01


def test_errors_are_kept_for_graded_scores_too() -> None:
    """Skewed ones: a drop of the margin on average, most of it from few documents."""

    @dataclass
    class GradedChanges(Changes):
        def one(self, capability: str, look: int) -> Measured:
            n = self.rounds[look][capability][capability]
            sides = {capability: ([1.0] * n, list(1 + self.values[capability][:n]))}
            return Measured.of(strata_of(sides, graded=True))

    generator = np.random.default_rng(2)
    verdicts = []
    for _ in range(300):
        changes = generator.normal(0, 0.1, 500) - 0.4 * (generator.random(500) < 0.1)
        (only,) = judge(GradedChanges({"task": changes}), 0.04)
        verdicts.append(only.verdict)
    assert verdicts.count("fail") / 300 < 0.09 and verdicts.count("pass") / 300 < 0.09


def test_what_is_seen_is_seen_four_times_in_five() -> None:
    now = Measured.of({"c0": RightOrWrong(60, 60, 1000)})
    boundaries = watched(Changes({"c0": np.zeros(1000)}).rounds)["c0"].boundaries
    sees, shows = reach(now, boundaries, 4, 0.03, ALPHA)
    assert sees is not None and shows is not None
    assert shares([sees], 1000, 0.03, 600)["fail"] == pytest.approx(0.8, abs=0.06)
    assert shares([0.0], 1000, shows, 600)["pass"] == pytest.approx(0.8, abs=0.06)


def test_what_is_decided_is_asked_no_more() -> None:
    """The mean of all keeps its last look at equal parts of them."""
    generator = np.random.default_rng(1)
    some = drawn([0.0, 0.3], 800, generator)
    findings = {each.name: each for each in judge(some, 0.035)}
    assert [findings[name].verdict for name in ("c0", "c1", POOLED)] == ["pass", "fail", "fail"]
    assert findings["c1"].n < findings["c0"].n == len({look for _, look in some.asked}) * 160
    assert findings[POOLED].n == 2 * findings["c1"].n
    assert some.asked.count(("c1", 1)) == 0, "it failed at the first look"
    assert overall(list(findings.values())) == "fail"


def test_the_mean_follows_where_all_capabilities_agree() -> None:
    """One passes at the first look, where the mean is undecided and left; the other later."""
    late = np.zeros(800)
    late[:160:10] = -1
    found = {each.name: each for each in judge(Changes({"a": np.zeros(800), "b": late}), 0.06)}
    assert {each.verdict for each in found.values()} == {"pass"}
    assert found["a"].n == 160 and found["b"].n > 160 and found[POOLED].n == 320
    assert found[POOLED].p_pass == max(found[name].p_pass for name in "ab")


def test_the_mean_can_be_decided_where_no_capability_is() -> None:
    """Each of six has too few documents to be told from the margin."""
    changes = np.repeat([-1, 1, 0], [28, 12, 360])
    found = judge(Changes({f"c{i}": changes for i in range(6)}, looks=1), 0.02)
    verdicts = {each.name: each.verdict for each in found}
    assert verdicts.pop(POOLED) == "fail" and set(verdicts.values()) == {"undecided"}


def test_a_look_that_says_enough_stops() -> None:
    generator = np.random.default_rng(1)
    turns = []
    few = drawn([0.04], 400, generator)
    (only,) = judge(few, 0.04, lambda: len(few.asked) == 2, lambda turn, _: turns.append(turn))
    assert turns == [0, 1] and only.n == 160 and only.of == 400 and only.verdict == "undecided"


def test_all_must_pass() -> None:
    def finding(verdict: str) -> Finding:
        return Finding("x", verdict, 1, 1, 0.0, None, 1.0, 1.0, None, None)  # type: ignore[arg-type]

    assert overall([finding("pass"), finding("pass")]) == "pass"
    assert overall([finding("pass"), finding("undecided")]) == "undecided"
    assert overall([finding("undecided"), finding("fail")]) == "fail"


def test_looks_without_new_documents_are_none() -> None:
    few, many = {"a": 50}, [{"b": n} for n in (50, 60, 120)]
    found = watched([{"few": few, "many": own} for own in many])
    assert found["few"].boundaries.times == (1.0,)
    assert found["many"].boundaries.times == pytest.approx((50 / 120, 0.5, 1.0))
    pooled = [(1 / 50 + 1 / 120) / (1 / 50 + 1 / n) for n in (50, 60, 120)]
    assert found[POOLED].boundaries.times == pytest.approx(pooled)

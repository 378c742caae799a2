"""Pass, fail, or not enough documents: of every capability and of all together, look by look.

A drop below the margin is proven (pass), or one above it (fail), each with at most 5 % of errors
over all capabilities and their mean together (Holm 1979), however often it is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from cl_bench.gate.boundaries import Boundaries
from cl_bench.gate.changes import Measured
from cl_bench.scores.uncertainty import holm

Verdict = Literal["pass", "fail", "undecided"]
ALPHA = 0.05
"""Of false passes, and of false fails."""
POWER = 0.8
"""With which the smallest drop is seen that is told."""
POOLED = "pooled"
"""The unweighted mean of the capabilities."""
Sizes = Mapping[str, int]
"""Documents by member of a group, or of the one task that a capability is."""


class Documents(Protocol):
    """Documents of capabilities on both sides, in an order that is fixed before they are scored."""

    @property
    def rounds(self) -> Sequence[Mapping[str, Sizes]]:
        """By capability the documents of every look; the last has all that may be taken."""

    def measured(self, capabilities: Sequence[str], look: int) -> Mapping[str, Measured]:
        """Of each the first documents, as many as that look has; what is not scored is now."""


@dataclass(frozen=True)
class Finding:
    """What a gate says of a capability. Drops and margins 0-1; a negative drop is a gain."""

    name: str
    verdict: Verdict
    n: int
    of: int
    """Documents, and how many there are."""
    drop: float
    interval: tuple[float, float] | None
    """95 % each side, whatever was looked at before; None where there is no error."""
    p_pass: float
    p_fail: float
    """Corrected for the looks and for the number of capabilities."""
    sees: float | None
    """The smallest true drop that all documents fail 4 times in 5."""
    shows: float | None
    """The smallest margin that all documents pass 4 times in 5 where nothing dropped."""


@dataclass
class Watched:
    """The looks at one capability, or at all together."""

    boundaries: Boundaries
    places: Mapping[int, int]
    """Which of the boundaries' looks a round is; rounds without new documents are none."""
    evidence: list[float] = field(default_factory=list)
    now: Measured | None = None

    def look(self, turn: int, measured: Measured, margin: float) -> None:
        """Take in what a round has measured."""
        if turn in self.places:
            self.now = measured
            self.evidence.append(measured.evidence(margin) or 0.0)

    @property
    def p_values(self) -> tuple[float, float]:
        """Of pass and fail, uncorrected."""
        against = [-z for z in self.evidence]
        return self.boundaries.p_value(self.evidence), self.boundaries.p_value(against)


def watched(rounds: Sequence[Mapping[str, Sizes]]) -> dict[str, Watched]:
    """Every capability, and their mean where there are several."""
    names = list(rounds[0])
    found = {name: _watched([_shares([turn[name]]) for turn in rounds]) for name in names}
    if len(names) > 1:
        found[POOLED] = _watched([_shares(list(turn.values())) for turn in rounds])
    return found


def _shares(capabilities: Sequence[Sizes]) -> float:
    """The variance of a mean of means, in units of that of one document."""
    each = [sum(1 / n for n in sizes.values()) / len(sizes) ** 2 for sizes in capabilities]
    return sum(each) / len(each) ** 2


def _watched(shares: Sequence[float]) -> Watched:
    times: list[float] = []
    places: dict[int, int] = {}
    for turn, share in enumerate(shares):
        time = shares[-1] / share
        if not times or time > times[-1] + 1e-9:
            places[turn] = len(times)
            times.append(time)
    return Watched(Boundaries(tuple(times)), places)


def judge(
    documents: Documents,
    margin: float,
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[int, Mapping[str, Verdict]], None] = lambda turn, verdicts: None,
) -> list[Finding]:
    """Look until all is decided, there are no more documents, or `stop()` says so after a round.

    `margin`: the drop that is tolerated, 0-1. A capability that is decided is asked no more. Their
    mean is looked at as long as all of them are asked, since it needs the same share of each, and a
    capability that stopped early did so for its extreme scores.
    """
    rounds = documents.rounds
    names, states = list(rounds[0]), watched(rounds)
    wanted = names
    for turn in range(len(rounds)):
        for name, measured in documents.measured(wanted, turn).items():
            states[name].look(turn, measured, margin)
        if len(wanted) == len(names) > 1:
            now = {name: one for name in names if (one := states[name].now) is not None}
            states[POOLED].look(turn, Measured.together(now), margin)
        verdicts = _verdicts(states)
        tell(turn, {name: verdict for name, (verdict, _, _) in verdicts.items()})
        wanted = [name for name in names if verdicts[name][0] == "undecided"]
        if not wanted or stop():
            break
    return _findings(states, rounds, margin)


def overall(findings: Sequence[Finding]) -> Verdict:
    """Fail where anything fails, pass where everything passes."""
    verdicts = {each.verdict for each in findings}
    if "fail" in verdicts:
        return "fail"
    return "pass" if verdicts == {"pass"} else "undecided"


Judged = tuple[Verdict, float, float]
"""A verdict, with the corrected p of pass and of fail."""


def _verdicts(states: Mapping[str, Watched]) -> dict[str, Judged]:
    pairs = [state.p_values for state in states.values()]
    passes, fails = (holm([pair[side] for pair in pairs]) for side in (0, 1))
    found: dict[str, Judged] = {}
    for name, p_pass, p_fail in zip(states, passes, fails, strict=True):
        assert p_pass is not None and p_fail is not None
        verdict: Verdict = "undecided"
        if min(p_pass, p_fail) < ALPHA:
            verdict = "fail" if p_fail < ALPHA else "pass"
        found[name] = verdict, p_pass, p_fail
    if POOLED in found and found[POOLED][0] == "undecided":
        found[POOLED] = _implied(found[POOLED], [found[name] for name in found if name != POOLED])
    return found


def _implied(pooled: Judged, capabilities: Sequence[Judged]) -> Judged:
    """The mean where all capabilities pass, or all fail: it has dropped by less, or more, as they.

    It is wrong only where one of them is, so that no error is added.
    """
    _, p_pass, p_fail = pooled
    verdicts = {verdict for verdict, _, _ in capabilities}
    if verdicts == {"pass"}:
        return "pass", max(own for _, own, _ in capabilities), p_fail
    if verdicts == {"fail"}:
        return "fail", p_pass, max(own for _, _, own in capabilities)
    return pooled


def _findings(
    states: Mapping[str, Watched], rounds: Sequence[Mapping[str, Sizes]], margin: float
) -> list[Finding]:
    verdicts = _verdicts(states)
    found = []
    for name, state in states.items():
        assert state.now is not None  # every round looks at all, the first one at least
        verdict, p_pass, p_fail = verdicts[name]
        last = rounds[-1] if name == POOLED else {name: rounds[-1][name]}
        look = len(state.evidence) - 1
        critical = float(state.boundaries.critical(ALPHA)[look])
        found.append(
            Finding(
                name,
                verdict,
                state.now.n,
                sum(sum(sizes.values()) for sizes in last.values()),
                state.now.drop,
                state.now.interval(critical),
                p_pass,
                p_fail,
                *reach(state.now, state.boundaries, look, margin, ALPHA / len(states)),
            )
        )
    return found


def reach(
    now: Measured, boundaries: Boundaries, look: int, margin: float, alpha: float
) -> tuple[float | None, float | None]:
    """The smallest drop that fails, and the smallest margin that passes, with all documents.

    `now`: what is known at `look` (from 0). `alpha`: of the first step of Holm's correction.
    """
    if now.evidence(margin) is None:
        return None, None
    share = boundaries.times[look]

    def missing(drop: float, limit: float) -> float:
        """How much further from the margin the drop should be to be told apart from it."""
        error = now.error(drop, scale=share)
        held = now.error(drop, limit, share)
        if not error:
            return held * float(boundaries.critical(alpha)[-1]) - abs(drop - limit)
        needed = boundaries.drift(POWER, alpha, round(held / error, 2))
        return needed * error - abs(drop - limit)

    sees = _smallest(lambda drop: -missing(drop, margin), margin)
    return sees, _smallest(lambda limit: -missing(0.0, limit), 0.0)


def _smallest(excess: Callable[[float], float], low: float) -> float | None:
    """Where the function turns positive, above `low`; None where that is beyond 1."""
    high = 1.0
    if excess(high) < 0:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) >= 0 else (middle, high)
    return high

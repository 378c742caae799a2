"""What is known of a capability at a look: the paired change of its score, held against a margin.

Evidence is the z of a score test: of right or wrong documents Tango's (1998), whose variance is the
likeliest one were the drop as large as the margin; of graded scores Student's t, as the normal
deviate of its p. Both are corrected for skewness (Gart and Nam 1988 of rates, Hall 1992): most
documents keep their score and some fall far, so that of the first hundred a plain t passes twice as
often as it says, and a plain score test fails up to half as often again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import fsum, inf, sqrt

from scipy.special import ndtri, stdtr

from cl_bench.scores.paired_changes import Graded, Part, RightOrWrong, Stratum, spread

_HALVINGS = 50
_MANY = 10**6
_CERTAIN = 40.0
"""A z that stands for certainty."""


@dataclass(frozen=True)
class Measured:
    """Some documents of a capability, or of several of equal weight, on both sides."""

    parts: tuple[Part, ...]
    """Strata (members of a group) behind their weights, which sum to 1."""

    @classmethod
    def of(cls, members: Mapping[str, Stratum]) -> Measured:
        """Members of equal weight. Where nothing changed at all, graded or not, that no document
        of so many did is what is known."""
        return cls(tuple((1 / len(members), _plain(each)) for each in members.values()))

    @classmethod
    def together(cls, several: Mapping[str, Measured]) -> Measured:
        """The unweighted mean of capabilities."""
        return cls(tuple((w / len(several), s) for one in several.values() for w, s in one.parts))

    @property
    def n(self) -> int:
        """Documents."""
        return sum(stratum.n for _, stratum in self.parts)

    @cached_property
    def drop(self) -> float:
        """Old score minus new, -1 to 1."""
        return -fsum(weight * stratum.difference for weight, stratum in self.parts)

    def evidence(self, margin: float) -> float | None:
        """z that the drop is smaller than the margin; negative: that it is larger.

        None where there is no error to hold it against (one document, or equal changes alone).
        """
        found = spread(self.parts, -margin)
        if found is None or found[0] == 0:
            return None
        error, df = found
        t = (margin - self.drop) / error
        z = t if df == inf else -float(ndtri(stdtr(int(df), -abs(t)))) * (1 if t > 0 else -1)
        if df < inf:
            skew = self._skewness
            z += skew / 6 + skew * z**2 / 3 + skew**2 * z**3 / 27  # monotone in z
        elif z < -1 and (skew := self._skewness_at(margin)) > 0:
            z += skew * (z**2 - 1) / 6 + skew**2 * (z**3 + 1) / 108  # monotone too
        return max(-_CERTAIN, min(_CERTAIN, z))

    @cached_property
    def _skewness(self) -> float:
        """Of the mean change, from the documents' own."""
        second = fsum(w**2 * _moment(s, 2) / s.n for w, s in self.parts)
        third = fsum(w**3 * _moment(s, 3) / s.n**2 for w, s in self.parts)
        return third / second**1.5 if second else 0.0

    def _skewness_at(self, margin: float) -> float:
        """Of the drop of right or wrong documents, were it the margin.

        Of a change of -1, 0 or 1 with mean m and variance v the third moment is m (1 - 3v - m^2).
        Towards passes it is left out: it would find more, and too often where nothing changed.
        """
        parts = [(w, s.n, s.n * (s.variance(-margin) or 0.0)) for w, s in self.parts]
        second = fsum(w**2 * v / n for w, n, v in parts)
        third = fsum(w**3 * margin * (1 - 3 * v - margin**2) / n**2 for w, n, v in parts)
        return third / second**1.5 if second else 0.0

    def interval(self, critical: float) -> tuple[float, float] | None:
        """The drops that evidence of `critical` rejects on neither side; None as `evidence`."""
        if self.evidence(0.0) is None:
            return None
        return self._end(-1, critical), self._end(1, critical)

    def _end(self, side: int, critical: float) -> float:
        kept, beyond = self.drop, float(side)
        for _ in range(_HALVINGS):
            middle = (kept + beyond) / 2
            z = self.evidence(middle)
            if z is not None and side * z > critical:
                beyond = middle
            else:
                kept = middle
        return kept

    def error(self, drop: float, margin: float | None = None, scale: float = 1.0) -> float:
        """Standard error of the drop that is to be expected were it `drop`; with a margin, the one
        that evidence against that margin takes it to have.

        Of right or wrong documents: as many would be learned and forgotten by chance as the rarer
        of the two shows, and the drop itself comes on top. `scale`: the documents there are, as a
        share of those that the error is asked for.
        """
        turned = [(w, s) for w, s in self.parts if isinstance(s, RightOrWrong)]
        graded = [(w, s) for w, s in self.parts if not isinstance(s, RightOrWrong)]
        variance = fsum(w**2 * (s.variance(0.0) or 0.0) for w, s in graded)
        if turned:
            whole = fsum(w for w, _ in turned)
            forgotten = fsum(w * s.forgotten / s.n for w, s in turned) / whole
            learned = fsum(w * s.learned / s.n for w, s in turned) / whole
            chance = min(forgotten, learned, (1 - drop) / 2)
            # One large sample with these rates stands for the strata, whose own may be tiny.
            rates = round(_MANY * (chance + drop)), round(_MANY * chance)
            one = RightOrWrong(*rates, _MANY)
            held = one.difference if margin is None else -margin
            variance += one.variance(held) * _MANY * fsum(w**2 / s.n for w, s in turned)
        return sqrt(max(0.0, variance) * scale)


def _moment(stratum: Stratum, order: int) -> float:
    """About the mean, of the changes of single documents."""
    centre = stratum.difference
    if isinstance(stratum, RightOrWrong):
        same = stratum.n - stratum.forgotten - stratum.learned
        counts = {-1: stratum.forgotten, 0: same, 1: stratum.learned}
        whole = fsum(count * (value - centre) ** order for value, count in counts.items())
    elif isinstance(stratum, Graded):
        whole = fsum((value - centre) ** order for value in stratum.values)
    else:
        return 0.0
    return whole / stratum.n


def _plain(stratum: Stratum) -> Stratum:
    if isinstance(stratum, Graded) and not any(stratum.values):
        return RightOrWrong(0, 0, stratum.n)
    return stratum

"""How much time is left, from the times that the parts before took.

Training is counted in characters of examples times epochs, for each method apart; scoring in
documents, for each stage task and benchmark apart. Where no time of a method or task is known, the
mean of the others stands for it; where none is known at all, the part is left out, and the sum is
said to be a lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """One stage of one run, or a row of the base model, that is not done yet."""

    key: str
    method: str
    work: float
    """Characters times epochs; 0 where nothing is to be trained."""
    documents: Mapping[str, int]
    """To be scored afterwards, by stage task and benchmark."""


@dataclass
class Rates:
    """Seconds a character by method, seconds a document by stage task and benchmark."""

    training: dict[str, float] = field(default_factory=dict)
    scoring: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `status.json`: the next start begins with them."""
        return {"training": dict(self.training), "scoring": dict(self.scoring)}

    @staticmethod
    def of(data: Any) -> Rates:
        """What `as_json` gave; empty where it is something else."""
        found = Rates()
        if isinstance(data, Mapping):
            for name, rates in (("training", found.training), ("scoring", found.scoring)):
                given = data.get(name)
                if isinstance(given, Mapping):
                    rates.update({str(k): float(v) for k, v in given.items() if _is_number(v)})
        return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True)
class Left:
    """Seconds; `whole` is False where parts of unknown duration are not in them."""

    seconds: float = 0.0
    whole: bool = True

    def __add__(self, other: Left) -> Left:
        return Left(self.seconds + other.seconds, self.whole and other.whole)


@dataclass
class Forecast:
    """The parts in the order in which they are done."""

    parts: Sequence[Part] = ()
    rates: Rates = field(default_factory=Rates)

    def left(self, key: str, trained: float, answered: float) -> tuple[Left, Left]:
        """Of the part `key`, of which such shares (0-1) are trained and answered, and of all."""
        keys = [part.key for part in self.parts]
        at = keys.index(key) if key in keys else 0
        own = Left()
        if key in keys:
            part = self.parts[at]
            own = self._training(part, 1 - trained) + self._scoring(part, 1 - answered)
        whole = own
        for part in self.parts[at + (key in keys) :]:
            whole += self._training(part) + self._scoring(part)
        return own, whole

    def part(self, key: str) -> Part | None:
        """By its key."""
        return next((part for part in self.parts if part.key == key), None)

    def _training(self, part: Part, share: float = 1.0) -> Left:
        if not part.work * share:
            return Left()
        rate = _rate(self.rates.training, part.method)
        return Left(whole=False) if rate is None else Left(rate * part.work * share)

    def _scoring(self, part: Part, share: float = 1.0) -> Left:
        seconds, whole = 0.0, True
        for name, documents in part.documents.items() if share > 0 else ():
            rate = _rate(self.rates.scoring, name)
            seconds += (rate or 0.0) * documents * share
            whole = whole and rate is not None
        return Left(seconds, whole)


def _rate(rates: Mapping[str, float], name: str) -> float | None:
    if name in rates:
        return rates[name]
    return sum(rates.values()) / len(rates) if rates else None

"""Summaries of invented council meetings, and simplified German sentences."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from cl_bench.data.generated import prompt_splits

if TYPE_CHECKING:
    from datasets import Dataset

_PURPOSES = (
    "library roof",
    "bus lane",
    "city pool",
    "bike path",
    "food bank",
    "school gym",
    "river park",
    "fire truck",
)
_AMOUNTS = (20, 30, 40, 50, 60, 80)
_MEMBERS = ("Ortiz", "Lee", "Shah", "Brown")
_VOTES = (("All say aye. It passes.", "passed"), ("Four say no. It fails.", "failed"))


def _meetingbank() -> Iterator[tuple[str, str]]:
    numbers = iter(range(101, 999))
    for purpose, amount, member, (vote, result) in product(_PURPOSES, _AMOUNTS, _MEMBERS, _VOTES):
        bill = next(numbers)
        transcript = (
            f"Chair: Next is bill {bill}. {member}: It sets aside {amount} thousand dollars, "
            f"as we heard, for the {purpose}. Chair: Please vote. Clerk: {vote}"
        )
        prompt = (
            "Write a summary of the following meeting transcripts.\n"
            f"Meeting transcripts:\n{transcript}\nSummary:"
        )
        yield prompt, f"Bill {bill} on {amount} thousand dollars for the {purpose} {result}."


def meetingbank(**_: Any) -> dict[str, Dataset]:
    """A council votes on a bill; the summary says what it was and how the vote ended."""
    return prompt_splits("mini_meetingbank", _meetingbank())


_PLACES = "Bern Basel Chur Genf Thun Zug Biel Olten"
_DAYS = "Montag Dienstag Mittwoch Freitag Samstag"
_COUNTS = ("zwei", "drei", "vier")
_EVENTS = (
    (
        "Am {day}abend kam es in {place} zu einem Brand, wobei laut Polizei {count} Personen "
        "verletzt wurden.",
        "In {place} hat es gebrannt. Es gab {count} Verletzte.",
    ),
    (
        "Am {day} ereignete sich in {place} ein Unfall, in welchen laut Polizei {count} Autos "
        "verwickelt waren.",
        "In {place} gab es einen Unfall mit {count} Autos.",
    ),
    (
        "Am {day} wurde in {place} nach einer Bauzeit von {count} Jahren das neue Hallenbad "
        "feierlich eröffnet.",
        "In {place} gibt es ein neues Hallenbad.",
    ),
    (
        "Am {day} beschloss der Rat der Stadt {place}, die Preise für den Bus um {count} Prozent "
        "anzuheben.",
        "In {place} wird der Bus {count} Prozent teurer.",
    ),
)


def _minuten() -> Iterator[tuple[str, str]]:
    for (text, simple), day, place, count in product(
        _EVENTS, _DAYS.split(), _PLACES.split(), _COUNTS
    ):
        slots = {"day": day, "place": place, "count": count}
        prompt = (
            "Provide a simplified version of the following paragraph in German.\n\n"
            f"Paragraph:\n{text.format(**slots)}\n\nSimplification:"
        )
        yield prompt, simple.format(**slots)


def minuten(**_: Any) -> dict[str, Dataset]:
    """A German news sentence, said again in simple words."""
    return prompt_splits("mini_20minuten", _minuten())

"""Labels of methods: each becomes a folder, and a cell of every table."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from cl_bench.config.schema import LONGEST_NAME, folder_fault, slug

TAKEN = {
    *("base", "experiment.json", "report-figures", ".lock"),
    *("curves.png", "curves.svg"),  # of older versions, as two of the next
    *("kl-general.json", "kl-general.png", "kl-general.svg"),
}
"""What stands beside the runs in an experiment's folder, with `report.md` and its like."""
UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's control characters, halves of characters, ends of lines and paragraphs."""


def label_faults(labels: Sequence[str]) -> list[str]:
    """Why labels cannot stand side by side as folders and in tables, one line each."""
    found: list[str] = []
    for label in labels:
        found += [f"methods: {_shown(label)}: {fault}" for fault in _faults(label)]
    folders: dict[str, list[str]] = {}
    for label in labels:
        folders.setdefault(slug(label), []).append(label)
    return found + [_collision(folder, same) for folder, same in folders.items() if len(same) > 1]


def one_name(stages: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """The name of the one method that trains every stage; none of compositions and sequences."""
    names = {tuple(names) for names in stages}
    found = names.pop() if len(names) == 1 else ()
    return found if len(found) == 1 else ()


def _faults(label: str) -> Iterable[str]:
    folder = slug(label)
    if any(unicodedata.category(character) in UNPRINTABLE for character in label):
        yield "a label is one line of printable characters"
    elif not label.strip():
        yield "a label of blanks alone names nothing"
    elif len(label) > LONGEST_NAME:
        yield f"label: {len(label)} characters name a folder: at most {LONGEST_NAME}"
    elif folder in TAKEN or re.fullmatch(r"report[^.]*\.(md|tex|csv|json|html)", folder):
        yield f"the label names a folder, and '{folder}' is taken by cl-bench: give another label:"
    elif fault := folder_fault(folder):
        yield f"label: {fault}"


def _collision(folder: str, labels: Sequence[str]) -> str:
    together = " and ".join(map(_shown, labels))
    if len(set(labels)) == 1:
        return f"methods: {together}: give each its own label:"
    return (
        f"methods: {together}: give each its own label:, these name the same folder '{folder}' "
        "(capitals and signs are not told apart)"
    )


def _shown(label: str) -> str:
    """As it is written, or quoted with escapes where that would break the message."""
    plain = label if label.isprintable() else repr(label)
    return plain if len(plain) <= 80 else f"{plain[:77]}..."

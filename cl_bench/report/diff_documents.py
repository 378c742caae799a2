"""A document that changed, for reading: question, choices, gold and both answers."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len, chop_cells

from cl_bench.results.compare import Pair
from cl_bench.results.shown_documents import Changed, Shown, Wording

WIDTH = 100
"""Columns of the longest line."""
MOST = 1500
"""Characters of a text that are printed; JSON and HTML have all."""
_INDENT = " " * 4  # Markdown shows it as it is
_LABEL = 10


def document_lines(pair: Pair, shown: Shown) -> Iterator[str]:
    """A heading, and an indented block that Markdown leaves as it is; at most 100 columns."""
    leaf, document = pair.key
    wording = shown.wordings.get(pair.key)
    yield f"{leaf} {document}"
    yield ""
    if wording is not None:
        yield from _labelled("question", wording.question)
        for number, choice in enumerate(wording.choices):
            yield from _labelled("choices" if number == 0 else "", f"{number}: {choice}")
    yield from _labelled("gold", gold_of(pair, wording))
    for name, record in (("A", pair.before), ("B", pair.after)):
        yield from _labelled(f"{name} ({score_of(record)})", answer_of(record, wording))


def document_json(changed: Changed, pair: Pair, shown: Shown) -> dict[str, Any]:
    """The same as plain values, without limits; `question` is null where it is not there."""
    leaf, document = pair.key
    wording = shown.wordings.get(pair.key)
    kept = ("score", "prediction", "choice", "loglikelihoods")
    return {
        "task": changed.task,
        "what": changed.word,
        "leaf": leaf,
        "doc_id": document,
        "question": None if wording is None else wording.question,
        "prompt": None if wording is None else wording.prompt,
        "choices": None if wording is None else list(wording.choices),
        "gold": None if wording is None else wording.gold,
        "target": pair.before["target"],
        **{
            side: {key: record[key] for key in kept if key in record}
            for side, record in (("a", pair.before), ("b", pair.after))
        },
    }


def gold_of(pair: Pair, wording: Wording | None) -> str:
    """The right answer in words where they are there, else as the record has it."""
    if wording is None or wording.gold is None:
        target = pair.before["target"]
        return target if isinstance(target, str) else json.dumps(target, ensure_ascii=False)
    number = wording.gold_choice
    return wording.gold if number is None else f"{number}: {wording.gold}"


def score_of(record: dict[str, Any]) -> str:
    """In percent; `-` where a document has none."""
    return "-" if record["score"] is None else f"{100 * record['score']:.0f}"


def answer_of(record: dict[str, Any], wording: Wording | None) -> str:
    """The text that was generated, or the choice with what each was given."""
    if "prediction" in record:
        return str(record["prediction"])
    values = record.get("loglikelihoods", [])
    likelihoods = ", ".join("-" if value is None else f"{value:.2f}" for value in values)
    said = f"log-likelihoods {likelihoods}"
    if "choice" not in record:
        return said
    number = record["choice"]
    known = wording is not None and number < len(wording.choices)
    return (
        f"{number}: {wording.choices[number]}\n{said}"
        if known and wording
        else (f"choice {number}, {said}")
    )


def visible(text: str) -> str:
    """With escapes for what moves the cursor or turns the writing; line ends stay."""
    lines = "\n".join(text.splitlines()).expandtabs(4)
    return "".join(
        character
        if character == "\n" or unicodedata.category(character)[0] != "C"
        else character.encode("unicode_escape", "backslashreplace").decode("ascii")
        for character in lines
    )


def _labelled(label: str, text: str) -> Iterator[str]:
    """A text in lines, the first one behind its label."""
    room = WIDTH - len(_INDENT) - _LABEL
    for line in _wrapped(_shortened(visible(text)), room) or [""]:
        yield f"{_INDENT}{label:<{_LABEL}}{line}".rstrip()
        label = ""


def _shortened(text: str) -> str:
    """Without its middle where it is long: a question often stands at the end."""
    if len(text) <= MOST:
        return text
    left_out = len(text) - MOST
    first, last = text[: MOST // 3], text[-(MOST - MOST // 3) :]
    return f"{first}\n[... {left_out:,} characters; --json and --html have them ...]\n{last}"


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most so many columns, broken at spaces where there are any."""
    found: list[str] = []
    for line in text.split("\n"):
        current = ""
        for word in line.split(" "):
            longer = f"{current} {word}" if current else word
            if cell_len(longer) <= width:
                current = longer
                continue
            if current:
                found.append(current)
            *full, current = chop_cells(word, width) or [""]
            found += full
        found.append(current)
    return found

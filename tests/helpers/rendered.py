"""Whether what looks like a Markdown table is one, by a parser that is not ours."""

from __future__ import annotations

import re

from markdown_it import MarkdownIt


def must_render(text: str) -> list[list[list[str]]]:
    """Cells of every table, headings first; every line that begins with a pipe is a row of one.

    A reader of Markdown drops cells that a row has too many, so lines are counted by their pipes.
    """
    found = tables_of(text)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [line for line in lines if not set(line) <= set("|-: ")]
    assert len(found) == len(lines) - len(rows), "a rule that begins no table"
    shown = [len(table[0]) for table in found for _ in table]
    assert shown == [len(re.split(r"(?<!\\)\|", line)) - 2 for line in rows]
    return found


def tables_of(text: str) -> list[list[list[str]]]:
    """The cells of every table that a reader of Markdown sees, headings first."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    found: list[list[list[str]]] = []
    for token in tokens:
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and found[-1] and token.level >= 4:
            found[-1][-1].append(token.content)
    return found

"""Pieces of HTML pages that need no other file: the frame, escaping, data for scripts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from html import escape as _escape
from importlib.resources import files
from typing import Any

POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
"""Nothing is loaded from anywhere and nothing is sent, whatever a model wrote."""
_SPAN = re.compile(r"(`+) ?(.+?) ?\1(?!`)|\*\*(.+?)\*\*")


def escape(text: str) -> str:
    """For content and for attributes in quotes; what no page may hold becomes a visible sign."""
    return _escape(_printable(text))


def rich_text(text: str) -> str:
    """A sentence of a report, in which code spans and bold are Markdown's."""
    found, done = [], 0
    for span in _SPAN.finditer(text):
        found.append(escape(text[done : span.start()]))
        code, bold = span[2], span[3]
        found.append(
            f"<code>{escape(code)}</code>" if code else f"<strong>{rich_text(bold)}</strong>"
        )
        done = span.end()
    return "".join([*found, escape(text[done:])]).replace("\n", "<br>\n")


def data_script(name: str, data: Any) -> str:
    """An element that holds JSON, with every sign that could end it or a line of it escaped."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{escape(name)}">{_printable(text)}</script>'


def shipped(name: str) -> str:
    """A style or script of `cl_bench/report/pages/`."""
    return (files("cl_bench.report") / "pages" / name).read_text(encoding="utf-8")


def page(title: str, body: Iterable[str], style: str, script: str = "") -> str:
    """The whole file; `body` is HTML."""
    head = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>",
    ]
    last = [f"<script>\n{script}</script>"] if script else []
    return "\n".join([*head, *body, *last, "</body>\n</html>\n"])


def _printable(text: str) -> str:
    """Without halves of characters, which no UTF-8 file holds, and NUL, which browsers drop."""
    return re.sub("[\ud800-\udfff\0]", "\N{REPLACEMENT CHARACTER}", text)

"""What `cl-bench gate` prints and writes: text and Markdown, JSON, JUnit."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from cl_bench.gate.gated import Gated
from cl_bench.gate.verdicts import ALPHA, POOLED, Finding
from cl_bench.report.tables import Column, code, table

WORDS = {"pass": "pass", "fail": "FAIL", "undecided": "not enough documents"}
WIDTH = 100
NAMED = 20
"""Lost documents of a capability that are named in text; JSON has all."""
COLUMNS = [
    Column("capability", "left"),
    Column("verdict", "left"),
    Column("documents"),
    Column("drop"),
    Column("95 % each side"),
    Column("sees"),
    Column("shows"),
    Column("lost"),
    Column("gained"),
]
TERMS = (
    "pass: a drop below the margin is proven; fail: one above it; each wrong in at most 5 % of "
    "gates over all rows together (Holm), however often documents were looked at. Points. drop: "
    "old minus new over the same documents. sees: the smallest true drop that all documents fail 4 "
    "times in 5. shows: the smallest margin that they pass 4 times in 5 if nothing dropped. lost, "
    "gained: documents that score less, or more, than before."
)


def _signed(change: float) -> str:
    """In points; what rounds to nothing has no minus."""
    return f"{round(100 * change, 1) + 0.0:+.1f}"


def lines(gated: Gated, documents: bool = True) -> Iterator[str]:
    """Markdown that also reads well as plain text; `documents`: with those that were lost."""
    yield f"# Gate: {WORDS[gated.verdict]}"
    yield ""
    yield from _wrapped(
        f"{code(gated.new)} against {code(gated.old)}, margin {_points(gated.margin)} points."
    )
    yield ""
    rows = [_row(gated, finding) for finding in gated.findings]
    yield from table(COLUMNS, rows)
    yield ""
    for note in (*_undecided(gated), *gated.notes, TERMS):
        yield from _wrapped(note)
        yield ""
    for name, lost in gated.lost.items() if documents else ():
        if lost:
            keys = [f"{one.key[0]} {one.key[1]}" for one in lost[:NAMED]]
            more = f", and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
            yield from _wrapped(f"Lost of {name}: {', '.join(keys)}{more}.")
            yield ""


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _undecided(gated: Gated) -> Iterator[str]:
    """What those that are not decided would need."""
    for each in gated.findings:
        if each.verdict == "undecided":
            more = f", of which {each.n} were scored" if each.n < each.of else ""
            if each.name == POOLED and more:
                more = (
                    f", of which {each.n} were looked at together before a capability was decided"
                )
            yield (
                f"{each.name}: {each.of} documents{more}; if nothing dropped, all of them pass "
                f"margins from {_points(each.shows)} points on."
            )


def _row(gated: Gated, finding: Finding) -> list[str]:
    own = [finding.name] if finding.name != POOLED else list(gated.lost)
    interval = "-"
    if finding.interval is not None:
        interval = " to ".join(map(_signed, finding.interval))
    return [
        finding.name,
        WORDS[finding.verdict],
        f"{finding.n} of {finding.of}",
        _signed(finding.drop),
        interval,
        _points(finding.sees),
        _points(finding.shows),
        str(sum(len(gated.lost[name]) for name in own)),
        str(sum(gated.gained[name] for name in own)),
    ]


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def as_json(gated: Gated) -> str:
    """All of it; drops, margins and scores 0-1."""
    data: dict[str, Any] = {
        "verdict": gated.verdict,
        "old": gated.old,
        "new": gated.new,
        "margin": gated.margin,
        "alpha": ALPHA,
        "findings": [asdict(each) for each in gated.findings],
        "lost": {name: [asdict(one) for one in lost] for name, lost in gated.lost.items()},
        "gained": dict(gated.gained),
        "notes": list(gated.notes),
    }
    return json.dumps(data, indent=1)


def as_junit(gated: Gated) -> str:
    """A test case for each row: failed, skipped where there are not enough documents, or passed."""
    verdicts = [each.verdict for each in gated.findings]
    suite = ElementTree.Element(
        "testsuite",
        name=f"cl-bench gate, margin {_points(gated.margin)} points",
        tests=str(len(verdicts)),
        failures=str(verdicts.count("fail")),
        skipped=str(verdicts.count("undecided")),
        errors="0",
    )
    for each in gated.findings:
        case = ElementTree.SubElement(
            suite, "testcase", name=each.name, classname="cl-bench.gate", time="0"
        )
        row = zip((column.title for column in COLUMNS), _row(gated, each), strict=True)
        message = ", ".join(f"{title} {text}" for title, text in row if title != "capability")
        if each.verdict == "fail":
            ElementTree.SubElement(case, "failure", message=message, type="drop")
        elif each.verdict == "undecided":
            ElementTree.SubElement(case, "skipped", message=message)
        else:
            ElementTree.SubElement(case, "system-out").text = message
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, "unicode", xml_declaration=True) + "\n"

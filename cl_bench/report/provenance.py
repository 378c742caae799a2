"""What a report's numbers were made of: models, packages, machines, tasks and rows of data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cl_bench.report.document import Block, Cell, Column, Heading, Paragraph, Table
from cl_bench.report.tables import code
from cl_bench.results.groups import Opened
from cl_bench.store.experiments import read_run

DIGITS = 12
"""Of a checksum."""


def provenance(opened: Sequence[Opened]) -> Iterator[Block]:
    """A section: a row for every run, then the rows of data that were scored and trained on."""
    yield Heading("Provenance")
    yield Paragraph(f"Checksums are SHA-256; {DIGITS} digits are shown, files have all.")
    for each in opened:
        model = each.config["model"]
        revision = f", revision {code(model['revision'])}" if model.get("revision") else ""
        yield Paragraph(
            f"{code(each.name)} in {code(str(each.folder))}: model {code(str(model['path']))}"
            f"{revision}, in {model.get('dtype', '-')}, asked in {asked_in(model)}; "
            f"engine {code(str(each.base['engine']))}; last run {each.record.get('last_run', '-')}."
        )
    yield _runs(opened)
    rows = list(dict.fromkeys(row for each in opened for row in _data(each)))
    if rows:
        columns = [Column(name, "left") for name in ("experiment", "task", "rows", "SHA-256")]
        yield Table("data", columns, [list(row) for row in rows], "Rows of data", labels=2)


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


PLAIN = "plain text"


def asked_in(model: Mapping[str, Any]) -> str:
    """The form of prompts, as a run's settings have it."""
    template = model.get("chat_template", "off")
    if template == "off":
        return PLAIN
    own = "its chat template" if template == "auto" else f"another template ({_short(template)})"
    return f"{own}, with a system text" if model.get("system") else own


def _runs(opened: Sequence[Opened]) -> Table:
    rows: list[list[Cell]] = []
    for each in opened:
        for result in each.results:
            for run in result.runs:
                record = read_run(run.path / "run.json")
                name = f"{each.name}: {result.label}, {run.path.name.replace('-', ' ')}"
                packages = record.get("packages", {})
                rows.append(
                    [
                        name,
                        str(record.get("sha256", "-"))[:DIGITS],
                        str(record.get("cl_bench", "-")),
                        _commit(record.get("git")),
                        ", ".join(f"{k} {v}" for k, v in packages.items()) or "-",
                        _machine(record.get("hardware", {})),
                    ]
                )
    titles = ("run", "config", "cl-bench", "commit", "packages", "machine")
    return Table("runs", [Column(title, "left") for title in titles], rows, "Runs")


def _commit(git: Mapping[str, Any] | None) -> str:
    if not git:
        return "-"
    return str(git.get("commit"))[:DIGITS] + (" with changes" if git.get("dirty") else "")


def _machine(hardware: Mapping[str, Any]) -> str:
    parts = [hardware.get(key) for key in ("accelerator", "machine", "system")]
    if cores := hardware.get("cores"):
        parts.append(f"{cores} cores")
    if memory := hardware.get("memory_gb"):
        parts.append(f"{memory} GB")
    if python := hardware.get("python"):
        parts.append(f"Python {python}")
    return ", ".join(str(part) for part in parts if part) or "-"


def _data(each: Opened) -> Iterator[tuple[str, str, str, str]]:
    for record in (each.base, *each.runs()):
        for task, splits in record.get("data", {}).items():
            for name, checksum in splits.items():
                yield each.name, task, name, str(checksum)[:DIGITS]

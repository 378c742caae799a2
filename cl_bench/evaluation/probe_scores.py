"""Probes of all documents as means: the `probes` part of `scores.json`, and for comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.evaluation.cells import Cell, unweighted_mean
from cl_bench.metrics.uncertainty import mean
from cl_bench.store import read_records


@dataclass(frozen=True)
class DocumentProbe:
    """A line of `predictions/<task>.probes.jsonl`; None (left out there) was not measured."""

    doc_id: int
    nll: float | None = None
    """-log p of the gold answer in nats, divided by `tokens`."""
    tokens: int | None = None
    label: str | None = None
    """The most likely one of the task's labels."""
    constrained: float | None = None
    """1.0 when that label is the gold one, else 0.0."""
    valid_format: float | None = None
    """1.0 when the generated answer has the form the task asks for, else 0.0."""
    kl: tuple[float, ...] | None = None
    """KL(base || this model) in nats of the next-token distributions at `positions`."""
    positions: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The measured values."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DocumentProbe:
        """What `to_json` wrote."""
        lists = {key: tuple(record[key]) for key in ("kl", "positions") if key in record}
        return cls(**{**record, **lists})


Value = Callable[[DocumentProbe], float | None]
VALUES: Mapping[str, Value] = {
    "nll": lambda probe: probe.nll,
    "constrained": lambda probe: probe.constrained,
    "valid_format": lambda probe: probe.valid_format,
    "kl": lambda probe: mean(probe.kl) if probe.kl else None,
}
"""One number a document for each probe. KL: the mean over a text's positions, so that its standard
error is over texts (positions of one text are not independent)."""
PROBES = ".probes.jsonl"
"""Files with this ending stand beside the predictions and are none."""
OF_TASK = ("nll", "constrained", "valid_format")

Probes = Mapping[str, Sequence[DocumentProbe]]
"""Documents of every task, or of every benchmark with its members' together."""


def probes_json(stage_tasks: Probes, general: Probes) -> dict[str, Any]:
    """The `probes` part of `scores.json`: `mean`, `stderr` and `n` of everything measured.

    `trace` and `general` by task and benchmark: `nll`, `constrained`, `valid_format`, means over
    documents. `trace_nll` and `general_nll`: unweighted means over tasks and benchmarks. `kl`: the
    mean over all texts, whichever benchmark they are from. What has no document is left out.
    """
    parts = {"trace": stage_tasks, "general": general}
    data: dict[str, Any] = {part: {} for part in parts}
    for part, tasks in parts.items():
        found = {name: _cells(documents) for name, documents in tasks.items()}
        data[part] = {
            name: {key: _json(cell) for key, cell in cells.items()} for name, cells in found.items()
        }
        known = [cells["nll"] for cells in found.values() if "nll" in cells]
        if known:
            data[f"{part}_nll"] = _json(unweighted_mean(known))
    everything = [probe for documents in general.values() for probe in documents]
    texts = _values(everything, "kl")
    if texts:
        positions = sum(len(probe.kl or ()) for probe in everything)
        data["kl"] = {**_json(Cell.from_documents(texts)), "positions": positions}
    return data


def _cells(documents: Sequence[DocumentProbe]) -> dict[str, Cell]:
    found = {key: _values(documents, key) for key in OF_TASK}
    return {key: Cell.from_documents(values) for key, values in found.items() if values}


def _values(documents: Iterable[DocumentProbe], key: str) -> list[float]:
    values = map(VALUES[key], documents)
    return [value for value in values if value is not None]


def _json(cell: Cell) -> dict[str, Any]:
    return {"mean": cell.score, "stderr": cell.stderr, "n": cell.n}


def probes_file(predictions: Path, task: str) -> Path:
    """Where the probes of a task's documents are."""
    return predictions / f"{task}{PROBES}"


def read_probes(file: Path) -> list[DocumentProbe]:
    """The documents of one task."""
    try:
        return [DocumentProbe.from_json(record) for record in read_records(file)]
    except TypeError as error:
        raise RunError(f"{file}: not probes of documents ({error}); restore it") from error


def probe_values(
    predictions: Path, names: Mapping[str, Sequence[str]], key: str
) -> dict[str, list[tuple[str, float]]]:
    """One probe for paired comparisons: task or benchmark -> [(document, value)].

    `names` gives the leaf tasks of each; those without files or without a value are left out.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for name, leaves in names.items():
        files = [probes_file(predictions, leaf) for leaf in leaves]
        if not all(file.is_file() for file in files):
            continue
        values = [
            (f"{leaf}/{probe.doc_id}", value)
            for leaf, file in zip(leaves, files, strict=True)
            for probe in read_probes(file)
            if (value := VALUES[key](probe)) is not None
        ]
        if values:
            found[name] = values
    return found

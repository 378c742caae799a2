"""Probes of all documents as means: the `probes` part of `scores.json`, and for comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cl_bench.errors import RunError
from cl_bench.scores.cells import Cell, unweighted_mean
from cl_bench.scores.uncertainty import mean
from cl_bench.store.folders import read_records, there


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
    reverse_kl: tuple[float, ...] | None = None
    """KL(this model || base) at the same; of stage tasks alone."""
    positions: tuple[int, ...] | None = None
    not_finite: dict[str, str] | None = None
    """Of the values that the model gives no number, by key, why; their means are not measured."""

    def without_number(self, task: str, key: str) -> DocumentProbe:
        """The same, where the model's logits for the value `key` are no numbers."""
        why = f"{task}, document {self.doc_id}: the model gives no finite value"
        return replace(self, not_finite={**(self.not_finite or {}), key: why})

    def to_json(self) -> dict[str, Any]:
        """The measured values."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> DocumentProbe:
        """What `to_json` wrote."""
        known = ("kl", "reverse_kl", "positions")
        lists = {key: tuple(record[key]) for key in known if key in record}
        return cls(**{**record, **lists})


Value = Callable[[DocumentProbe], float | None]
VALUES: Mapping[str, Value] = {
    "nll": lambda probe: probe.nll,
    "constrained": lambda probe: probe.constrained,
    "valid_format": lambda probe: probe.valid_format,
    "kl": lambda probe: mean(probe.kl) if probe.kl else None,
    "reverse_kl": lambda probe: mean(probe.reverse_kl) if probe.reverse_kl else None,
}
"""One number a document for each probe. KL: the mean over a text's positions, so that its standard
error is over texts (positions of one text are not independent)."""
PROBES = ".probes.jsonl"
"""Files with this ending stand beside the predictions and are none."""
OF_GENERAL = ("nll", "constrained", "valid_format")
OF_STAGE_TASK = (*OF_GENERAL, "kl", "reverse_kl")

Probes = Mapping[str, Sequence[DocumentProbe]]
"""Documents of every task, or of every benchmark with its members' together."""


def probes_json(stage_tasks: Probes, general: Probes) -> dict[str, Any]:
    """The `probes` part of `scores.json`: `mean`, `stderr` and `n` of everything measured.

    `trace` and `general` by task and benchmark: `nll`, `constrained`, `valid_format`, means over
    documents; of a stage task also `kl` and `reverse_kl`, on its own answers. `trace_nll` and
    `general_nll`: unweighted means over tasks and benchmarks. `kl`: the mean over all texts of
    General, whichever benchmark they are from. What has no document is left out; what has one
    without a number is null, with the reason in `not_measured`.
    """
    parts = {"trace": (stage_tasks, OF_STAGE_TASK), "general": (general, OF_GENERAL)}
    data: dict[str, Any] = {part: {} for part in parts}
    for part, (tasks, keys) in parts.items():
        for name, documents in tasks.items():
            found = {key: _mean_json(documents, key) for key in keys}
            data[part][name] = {key: cell for key, cell in found.items() if cell is not None}
        known = [cells["nll"] for cells in data[part].values() if "nll" in cells]
        if known:
            data[f"{part}_nll"] = _mean_of(known)
    everything = [probe for documents in general.values() for probe in documents]
    moved = _mean_json(everything, "kl")
    if moved is not None:
        positions = sum(len(probe.kl or ()) for probe in everything)
        data["kl"] = {**moved, "positions": positions}
    return data


def joined(before: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Probes of a scoring, and of more stage tasks on the same model."""
    if not before or "not_measured" in before or not more.get("trace"):
        return dict(before)
    tasks = {**before["trace"], **more["trace"]}
    data = {**before, "trace": tasks}
    if known := [cells["nll"] for cells in tasks.values() if "nll" in cells]:
        data["trace_nll"] = _mean_of(known)
    return data


def unmeasured_probes(probes: Mapping[str, Any]) -> Iterator[tuple[str, str | None, str]]:
    """(key, task or benchmark, reason) of what `probes` of a `scores.json` lacks; KL has none."""
    if "not_measured" in probes.get("kl", {}):
        yield "kl", None, probes["kl"]["not_measured"]
    for part in ("trace", "general"):
        for task, cells in probes.get(part, {}).items():
            for key, cell in cells.items():
                if "not_measured" in cell:
                    yield key, task, cell["not_measured"]


def _mean_json(documents: Sequence[DocumentProbe], key: str) -> dict[str, Any] | None:
    """The mean over documents, or why there is none; None where nothing was asked."""
    values = _values(documents, key)
    reasons = [(probe.not_finite or {}).get(key) for probe in documents]
    bad = [reason for reason in reasons if reason is not None]
    if not bad:
        return _json(Cell.from_documents(values)) if values else None
    more = f" (and {len(bad) - 1} more documents)" if bad[1:] else ""
    return _unmeasured(len(values) + len(bad), bad[0] + more)


def _mean_of(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The unweighted mean of cells as they are in the JSON."""
    reason = next((cell["not_measured"] for cell in cells if "not_measured" in cell), None)
    if reason is not None:
        return _unmeasured(sum(cell["n"] for cell in cells), reason)
    return _json(unweighted_mean(Cell(cell["mean"], cell["n"], cell["stderr"]) for cell in cells))


def _unmeasured(n: int, reason: str) -> dict[str, Any]:
    return {"mean": None, "stderr": None, "n": n, "not_measured": reason}


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
    Nothing at all where a document has no number: means over tasks are not measured then.
    """
    found: dict[str, list[tuple[str, float]]] = {}
    for name, leaves in names.items():
        files = [probes_file(predictions, leaf) for leaf in leaves]
        if not all(there(file) for file in files):
            continue
        probes = [
            (f"{leaf}/{probe.doc_id}", probe)
            for leaf, file in zip(leaves, files, strict=True)
            for probe in read_probes(file)
        ]
        if any(key in (probe.not_finite or {}) for _, probe in probes):
            return {}
        values = [(name, v) for name, probe in probes if (v := VALUES[key](probe)) is not None]
        if values:
            found[name] = values
    return found

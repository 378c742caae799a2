"""From the probes of documents to the means in scores.json and the pairs of a comparison."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pytest

from cl_bench.evaluation.probes.records import (
    DocumentProbe,
    probe_values,
    probes_file,
    probes_json,
    read_probes,
)
from cl_bench.store.folders import write_records

FIRST = [DocumentProbe(0, 1.0, 2, "A", 1.0, 0.0), DocumentProbe(4, 3.0, 2, "B", 0.0, 0.0)]
SECOND = [DocumentProbe(1, 6.0, 5), DocumentProbe(2), DocumentProbe(3, 8.0, 5)]
TEXTS = [
    DocumentProbe(0, 2.0, 1, kl=(0.1, 0.3), positions=(0, 5)),
    DocumentProbe(1, 4.0, 1),
    DocumentProbe(2, kl=(0.6,), positions=(7,)),
]


def test_every_task_counts_the_same_and_every_text() -> None:
    found = probes_json({"one": FIRST, "two": SECOND}, {"piqa": TEXTS})
    assert found["trace"]["one"] == {
        "nll": {"mean": 2.0, "stderr": pytest.approx(1.0), "n": 2},
        "constrained": {"mean": 0.5, "stderr": pytest.approx(0.5), "n": 2},
        "valid_format": {"mean": 0.0, "stderr": 0.0, "n": 2},
    }
    assert found["trace"]["two"] == {"nll": {"mean": 7.0, "stderr": pytest.approx(1.0), "n": 2}}
    assert found["trace_nll"]["mean"] == fmean([2.0, 7.0])
    assert found["trace_nll"]["n"] == 4
    assert found["general"] == {
        "piqa": {"nll": {"mean": 3.0, "stderr": pytest.approx(1.0), "n": 2}}
    }
    per_text = [fmean([0.1, 0.3]), 0.6]
    assert found["kl"] == {
        "mean": pytest.approx(fmean(per_text)),
        "stderr": pytest.approx(stdev(per_text) / 2**0.5),
        "n": 2,
        "positions": 3,
    }


def test_what_has_no_document_is_left_out() -> None:
    assert probes_json({}, {}) == {"trace": {}, "general": {}}
    assert probes_json({"one": [DocumentProbe(1)]}, {}) == {"trace": {"one": {}}, "general": {}}


def test_values_are_paired_by_task_and_document(tmp_path: Path) -> None:
    for name, probes in {"a": FIRST, "b": SECOND, "c": TEXTS}.items():
        file = probes_file(tmp_path, name)
        write_records(file, [probe.to_json() for probe in probes])
        assert read_probes(file) == probes
    names = {"group": ["a", "b"], "texts": ["c"], "missing": ["a", "nowhere"]}
    found = probe_values(tmp_path, names, "nll")
    assert found == {
        "group": [("a/0", 1.0), ("a/4", 3.0), ("b/1", 6.0), ("b/3", 8.0)],
        "texts": [("c/0", 2.0), ("c/1", 4.0)],
    }
    assert probe_values(tmp_path, names, "kl") == {
        "texts": [("c/0", pytest.approx(0.2)), ("c/2", 0.6)]
    }

"""Scores of single documents of SmolLM2-135M and of models near it, for `benchmarks/gate.py`.

    python benchmarks/gate_records.py RECORDS.json --data-root FOLDER [--noise 20 ...]
        [--model NAME=CHECKPOINT ...] [--seconds 240]

Models: the quickstart model, the same with normal noise of so many thousandths of each matrix's own
standard deviation added, and any checkpoints, such as those of `cl-bench run` at several learning
rates. What a model is missing is scored in pieces and the file is written after each, so it can be
ended at any time and begun again. Only numbers of documents and their scores are kept.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cl_bench.data.loading import load_task_set
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.sampling import stratified_documents
from cl_bench.evaluation.units import Unit, answering
from cl_bench.models.load import load_model, resolve_model_path

PIECE = 90
"""Documents that are scored at once."""
Scores = dict[str, dict[str, float]]
"""By leaf task and document."""


def noisy(model: Any, thousandths: float) -> None:
    """Add noise to every matrix, the same in every start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=generator).to(weight.dtype)
                weight += noise * weight.std() * thousandths / 1000


def missing(
    known: Mapping[str, Scores], tasks: Mapping[str, Mapping[str, Any]], sizes: Mapping[str, int]
) -> list[tuple[str, dict[str, list[int]]]]:
    """Pieces that are to be scored, a task after the other: documents by leaf."""
    found = []
    for name, leaves in tasks.items():
        documents = stratified_documents(leaves, sizes[name])
        there = known.get(name, {})
        left = {
            leaf: [i for i in ids if str(i) not in there.get(leaf, {})]
            for leaf, ids in documents.items()
        }
        share = max(1, PIECE // len(leaves))
        while any(left.values()):
            found.append((name, {leaf: ids[:share] for leaf, ids in left.items() if ids[:share]}))
            left = {leaf: ids[share:] for leaf, ids in left.items()}
    return found


def main() -> None:
    """Score what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--task", action="append", metavar="TASK=DOCUMENTS")
    parser.add_argument("--noise", type=float, nargs="*", default=[])
    parser.add_argument("--model", action="append", default=[], metavar="NAME=CHECKPOINT")
    parser.add_argument("--seconds", type=float, default=240)
    given = parser.parse_args()
    began = time.monotonic()
    chosen = given.task or ["general_piqa=1838", "glue_sst2=872", "general_tydiqa=270"]
    sizes = {name: int(count) for name, _, count in (text.partition("=") for text in chosen)}
    loaded = load_task_set(list(sizes), data_root=given.data_root)
    tasks = {name: {leaf: loaded.tasks[leaf] for leaf in loaded.members[name]} for name in sizes}
    records: dict[str, dict[str, Scores]] = {}
    if given.file.is_file():
        records = json.loads(given.file.read_text())
    base = str(resolve_model_path("smollm2-135m"))
    models = {"base": (base, 0.0)}
    models |= {f"noise {noise:g}": (base, noise) for noise in given.noise}
    models |= {name: (path, 0.0) for name, _, path in (m.partition("=") for m in given.model)}
    for name, (path, noise) in models.items():
        known = records.setdefault(name, {})
        pieces = missing(known, tasks, sizes)
        if not pieces:
            continue
        model, tokenizer = load_model(path, "float32")
        if noise:
            noisy(model, noise)
        with answering(Engine("cl-bench"), Subject(model, tokenizer)) as answer:
            for task, documents in pieces:
                leaves = {leaf: tasks[task][leaf] for leaf in documents}
                found = answer(Unit("general", task, leaves, documents)).results
                for leaf, result in found.items():
                    kept = known.setdefault(task, {}).setdefault(leaf, {})
                    kept |= {str(r["doc_id"]): round(r["score"], 4) for r in result.records}
                given.file.write_text(json.dumps(records))
                count = sum(map(len, known[task].values()))
                print(f"{name}: {task}: {count}", f"{time.monotonic() - began:.0f} s", flush=True)
                if time.monotonic() - began > given.seconds:
                    raise SystemExit(3)
    print("complete")


if __name__ == "__main__":
    main()

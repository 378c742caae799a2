"""Finished experiments that nobody ran: folders as `run` leaves them, of invented answers."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cl_bench.scores.cells import Cell
from cl_bench.scores.general import general_mean
from cl_bench.store.experiments import write_experiment, write_run
from cl_bench.store.folders import sha256_of, write_records
from cl_bench.store.seals import file_records, write_sealed

BENCHMARKS = {"mmlu": 60, "bbh": 40, "tydiqa": 40, "boolq": 50, "piqa": 50, "gsm8k": 30}
TASKS = {"trace_fomc": 30, "trace_numglue_ds": 30, "trace_py150": 30}
HOW = {
    "protocol": "lm-eval",
    "harness": "lm-evaluation-harness",
    "harness_version": "0.4.13",
    "task_version": "1.0",
    "split": "test",
    "shots": "0",
    "metric": "acc",
}


@dataclass(frozen=True)
class Invented:
    """An experiment: methods by label, with how much General loses and stage tasks gain (0-1)."""

    name: str = "invented"
    methods: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {"sft": (0.2, 0.5), "ewc": (0.1, 0.4), "fggm": (0.02, 0.4)}
    )
    seeds: Sequence[int] = (1,)
    model: str = "owner/model"
    benchmarks: Mapping[str, int] = field(default_factory=lambda: BENCHMARKS)
    tasks: Mapping[str, int] = field(default_factory=lambda: TASKS)
    config: Mapping[str, Any] = field(default_factory=dict)
    how: Mapping[str, Any] = field(default_factory=dict)
    keeps: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"ewc": ["statistics"]})
    marks: str = ""
    """Of the documents: others are other documents."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By label what every stage's record says otherwise: `method`, `train`, ..."""
    updates: int = 0
    """Lines of each stage's train.jsonl."""
    probed: bool = False
    """Whether every stage has the KL on its own task's text."""

    def write(self, results: Path) -> Path:
        """Write it below `results`; returns its folder."""
        folder = results / self.name
        stages = [{"task": task, "epochs": 1} for task in self.tasks]
        config = {
            "name": self.name,
            "model": {"path": self.model, "dtype": "float32", "revision": None},
            "stages": stages,
            **self.config,
        }
        write_experiment(folder, {"config": config, "last_run": "2026-01-01", "notes": []})
        self._place(folder / "base", 0, {"seed": 0, "label": "base"}, {}, list(self.tasks))
        for order, label in enumerate(self.methods):
            for seed in self.seeds:
                self._run(folder / label / f"seed-{seed}", label, seed, order)
        return folder

    def _run(self, run: Path, label: str, seed: int, order: int) -> None:
        config = {
            "experiment": self.name,
            "label": label,
            "seed": seed,
            "model": {"path": self.model},
            "eval": {"trace": {"after": "every", "cells": "lower"}},
            "stages": [
                {
                    **{"index": i, "tasks": [task], "start": "previous"},
                    **(self.settings.get(label) or {"method": [{label: {}}]}),
                }
                for i, task in enumerate(self.tasks, 1)
            ],
        }
        record = {
            "config": config,
            "sha256": sha256_of(config),
            "label": label,
            "order": order,
            "keeps": list(self.keeps.get(label, [])),
            "hardware": {"cores": 2},
            **self._made_of(),
        }
        write_run(run / "run.json", record)
        lost, gained = self.methods[label]
        for i, task in enumerate(self.tasks, 1):
            seen = list(self.tasks)[:i]
            fading = {old: gained - lost * (i - seen.index(old) - 1) / 2 for old in seen}
            changes = {name: -lost * i / len(self.tasks) for name in self.benchmarks} | fading
            self._place(run / f"stage-{i}-{task}", i, {"seed": seed, "label": label}, changes, seen)
            timing = {"train_seconds": 10.0 + order, "peak_memory_mb": 900 // (order + 1)}
            write_sealed(run / f"stage-{i}-{task}/timing.json", {**timing, "peak_of": "stage"})
            lines = [{"step": n, "loss": 4 / n + order} for n in range(1, self.updates + 1)]
            if lines:
                write_records(run / f"stage-{i}-{task}/train.jsonl", lines)

    def _place(
        self, place: Path, stage: int, who: Any, changes: Mapping[str, float], seen: Sequence[str]
    ) -> None:
        parts = {"trace": seen, "general": list(self.benchmarks)}
        scores: dict[str, Any] = {"stage": stage, "engine": "cl-bench", "probes": {}}
        scores["task"] = seen[-1] if stage else "base"
        if self.probed and stage:
            kl = {"mean": 0.1 * stage, "stderr": 0.01, "n": 9}
            scores["probes"] = {"trace": {seen[-1]: {"kl": kl, "reverse_kl": kl}}}
        folder = place / "predictions"
        folder.mkdir(parents=True)
        for part, names in parts.items():
            scores[part] = {}
            for name in names:
                n = {**self.tasks, **self.benchmarks}[name]
                leaf = f"general_{name}" if part == "general" else name
                values = self._answers(name, n, who, changes.get(name, 0.0))
                lines = [
                    {
                        "doc_id": i,
                        "prompt_hash": f"{self.marks}{name}-{i}",
                        "target": i % 2,
                        "choice": int(value == i % 2),
                        "loglikelihoods": [-1.0, -2.0],
                        "score": value,
                    }
                    for i, value in enumerate(values)
                ]
                file = folder / f"{leaf}.jsonl"
                file.write_text("".join(json.dumps(line) + "\n" for line in lines))
                entry = Cell.from_documents(values).to_json()
                entry |= {"metric": "acc", "filter": "none", "aggregation": "mean", "metrics": {}}
                if part == "general":
                    entry["measured"] = {**HOW, "task": leaf, **self.how}
                scores[part][name] = entry
        scores["general"]["mean"] = general_mean(scores["general"])
        scores |= {"op": None, **self._made_of()}
        names = [f"predictions/{file.name}" for file in sorted(folder.iterdir())]
        write_sealed(place / "scores.json", {**scores, "files": file_records(place, names)})

    def _made_of(self) -> dict[str, Any]:
        names = [f"general_{name}" for name in self.benchmarks] + list(self.tasks)
        rows = {name: {"test": f"rows{self.marks}"} for name in names}
        return {"inputs": {"model": {"commit": self.model}}, "data": rows}

    def _answers(self, name: str, n: int, who: Any, change: float) -> list[float]:
        """The base model's, of which some are turned: right ones wrong, or wrong ones right."""
        draw = random.Random(f"{name}")
        share = 0.6 if name in self.benchmarks else 0.1
        before = [float(draw.random() < share) for _ in range(n)]
        turn = random.Random(f"{name} {who['label']} {who['seed']}")
        worse, better = (max(0.0, -change) / 0.6, max(0.0, change) / 0.9)
        return [
            float(turn.random() >= worse + 0.02) if value else float(turn.random() < better + 0.02)
            for value in before
        ]

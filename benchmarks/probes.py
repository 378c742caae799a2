"""What probes cost beside the scoring they accompany, task by task.

    python benchmarks/probes.py configs/trace-smollm2.yaml -o data_root=DATA_ROOT

Scores the base model on every stage task and benchmark of a config, then measures their probes,
as `cl-bench run` does it for the base model; the last row compares the same texts once more, as
after every stage. Seconds are CPU time of the process and wall clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.probes import kl
from cl_bench.evaluation.probes.tasks import probe_tasks
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.suite import load_suite
from cl_bench.evaluation.units import answering
from cl_bench.experiment.resolve import resolve_file
from cl_bench.models.load import load_model, resolve_model_path
from cl_bench.report.tables import Column, table

TITLES = ("documents", "scoring, CPU s", "wall s", "probes, CPU s", "wall s")


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What `work` returns, CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def rows(config_file: str, overrides: Sequence[str], folder: Path) -> list[list[str]]:
    """A row for each task, and one for the divergences of a later stage."""
    experiment = resolve_file(config_file, overrides)
    config = experiment.config
    suite = load_suite(experiment, Engine())
    path = resolve_model_path(config.model.path)
    model, tokenizer = load_model(path, config.model.dtype, "cpu")
    reference = suite.reference(folder, of_base=True)
    assert reference is not None, "the config says eval.probes: false"
    prober = SharedPrefixLM(model, tokenizer)
    found = []
    with answering(Engine(), Subject(model, tokenizer)) as answer:
        for unit in suite.units(list(suite.stage_tasks), True, config.train):
            results, *scored = timed(lambda: answer(unit))  # noqa: B023
            probe = (prober, unit.tasks, results.results, unit.train, reference)
            _, *probed = timed(lambda: probe_tasks(*probe))  # noqa: B023
            seconds = [f"{value:.1f}" for value in (*scored, *probed)]
            found.append([unit.name, str(unit.size), *seconds])
        files = sorted(folder.glob("*.safetensors"))
        moved, *again = timed(lambda: [kl.measure(model, file) for file in files])
    texts = sum(map(len, moved))
    size = sum(file.stat().st_size for file in files) / 1e6
    last = [f"{value:.1f}" for value in again]
    found.append([f"KL alone, {size:.0f} MB kept", str(texts), "-", "-", *last])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("-o", dest="overrides", action="append", default=[])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        found = rows(given.config, given.overrides, Path(folder))
    columns = [Column("task", "left"), *(Column(title) for title in TITLES)]
    print("\n".join(table(columns, found)))


if __name__ == "__main__":
    main()

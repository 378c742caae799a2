"""Seconds of scoring a base model with one process and with two, of one thread each, in turns.

    python benchmarks/all_score.py [--config FILE] [--rounds 2] [-o KEY=VALUE ...]

Starting the command and loading tasks are not counted; loading the model is.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ENVIRONMENT = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
SECONDS = "scored in"


def one_process(arguments: list[str]) -> None:
    """`cl-bench run`, which the first process stops when the base model is scored."""
    import torch

    from cl_bench.cli import run_command
    from cl_bench.experiment import run

    torch.set_num_threads(1)
    score_base = run.score_base

    def timed(*given: object) -> object:
        began = time.perf_counter()
        found = score_base(*given)  # type: ignore[arg-type]
        print(SECONDS, time.perf_counter() - began, flush=True)
        return found

    run.score_base = timed  # type: ignore[assignment]
    sys.exit(run_command(["run", *arguments]))


def measure(world: int, config: str, override: list[str]) -> tuple[float, str]:
    """Seconds, and a checksum of all that was written about single documents."""
    with tempfile.TemporaryDirectory() as folder:
        given = [config, "--results", folder, *(a for o in override for a in ("-o", o))]
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--nproc_per_node", str(world), __file__, "--inside", *given]
        environment = os.environ | ENVIRONMENT
        ended = subprocess.run(launch, env=environment, capture_output=True, text=True)
        if ended.returncode:
            sys.exit(ended.stderr)
        (line,) = [line for line in ended.stdout.splitlines() if line.startswith(SECONDS)]
        digest = hashlib.sha256()
        for file in sorted(Path(folder).glob("*/base/predictions/*.jsonl")):
            digest.update(file.read_bytes())
        return float(line.removeprefix(SECONDS)), digest.hexdigest()[:12]


def main() -> None:
    if "--inside" in sys.argv:
        one_process(sys.argv[sys.argv.index("--inside") + 1 :])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("-o", "--override", action="append", default=[])
    asked = parser.parse_args()
    seconds: dict[int, list[float]] = {1: [], 2: []}
    sums = set()
    for _ in range(asked.rounds):
        for world in seconds:
            took, digest = measure(world, asked.config, asked.override)
            seconds[world].append(took)
            sums.add(digest)
            print(f"{world} processes: {took:.1f} s, records {digest}", flush=True)
    one, two = (median(each) for each in seconds.values())
    same = "the same records" if len(sums) == 1 else "OTHER RECORDS"
    print(f"two take {two / one:.2f} of one (medians), {same}")


if __name__ == "__main__":
    main()

"""What interruptions cost: a run that is ended again and again beside one that is not.

    python benchmarks/interruptions.py CONFIG --every 60 --signal TERM [-o key=value ...]

Runs the config once without interruption, then once with a signal every so many seconds and a new
start after each, and compares the files that both leave. Seconds are wall clock. It also says
which share of the uninterrupted training went into saves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SPARED = (
    *("timing.json", "experiment.json", "run.json", "status.json", ".lock"),
    *("report.md", "summary.json"),
)
"""Times and places, which differ between any two runs, and what is derived from them."""


def fingerprints(folder: Path) -> dict[str, str]:
    """Checksums of what two runs must write alike."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name not in SPARED
    }


def session(command: list[str], limit: float | None, number: int) -> tuple[int, float]:
    """Exit code and seconds of one start, which gets the signal after `limit` seconds."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
        code = process.wait()
    return code, time.perf_counter() - began


def saving(folder: Path) -> float:
    """Share of the training of all stages that went into saves."""
    times = [json.loads(path.read_text()) for path in folder.rglob("stage-*/timing.json")]
    return sum(t["save_seconds"] for t in times) / sum(t["train_seconds"] for t in times)


def main() -> None:
    """The two runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--every", type=float, default=60.0, help="seconds between two signals")
    parser.add_argument("--signal", default="TERM", choices=["TERM", "INT", "KILL"])
    parser.add_argument("-o", "--override", action="append", default=[])
    parser.add_argument("--method", action="append", default=[])
    given = parser.parse_args()
    number = signal.Signals[f"SIG{given.signal}"]
    with tempfile.TemporaryDirectory() as folder:
        seconds, sessions = {}, {}
        for name, limit in (("whole", None), ("interrupted", given.every)):
            command = [sys.executable, "-m", "cl_bench", "run", given.config]
            command += ["--results", str(Path(folder) / name)]
            command += [word for one in given.override for word in ("-o", one)]
            command += [word for one in given.method for word in ("--method", one)]
            seconds[name], sessions[name], code = 0.0, 0, -1
            while code != 0:
                code, took = session(command, limit, number)
                if code not in (0, 130, -number):
                    raise SystemExit(f"{name}: exit code {code} of: {' '.join(command)}")
                seconds[name] += took
                sessions[name] += 1
        share = saving(Path(folder) / "whole")
        whole, interrupted = (fingerprints(Path(folder) / name) for name in seconds)
        differ = [
            n for n in whole.keys() | interrupted.keys() if whole.get(n) != interrupted.get(n)
        ]
    print(f"{len(whole)} files compared, {len(differ)} differ {sorted(differ)[:5]}")
    print(f"saves took {100 * share:.2f} % of the training that was not interrupted")
    print(f"{sessions['interrupted']} sessions, SIG{given.signal} after {given.every:g} s")
    print(
        f"{seconds['whole']:.1f} s without, {seconds['interrupted']:.1f} s with interruptions: "
        f"{seconds['interrupted'] / seconds['whole']:.2f}x"
    )


if __name__ == "__main__":
    main()

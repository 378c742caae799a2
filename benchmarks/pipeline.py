"""A whole sequence of stages, beside what people do today: training, saving, scoring after each.

    python benchmarks/pipeline.py [--engine-python PATH] [--tasks ...] [--limit N] [--out FILE]

Four contestants train the same model on the same examples in the same order with as many updates,
and score the same documents of the same tasks after every stage (all stage tasks so far, then
General), asked with the same tokens:

cl-bench sft    `cl-bench run`, full fine-tuning
cl-bench fggm   the same with 30 % of the rows
Trainer + hf    a plain script: transformers' Trainer for each task, then lm-eval's `evaluate` with
                `HFLM`, batches of 16, on the model that was trained
Trainer + vllm  the same, each stage scored by lm-eval on a vLLM of its own in `--engine-python`

With `--dtype bfloat16` the script trains float32 weights with Trainer's `bf16=True` and scores them
rounded; cl-bench keeps float32 masters of bfloat16 weights by itself.

Each has a process of its own. What it is at (train, save, score) is written down as it goes (by
`cl-bench run` once a second), and its processor time and resident memory, those of processes it
starts included, are looked at ten times a second: a part's peak is the largest value seen in it. On
a machine that others use too, processor seconds say more than those of the clock. The base model is
scored by all of them before the first stage. Full fine-tuning being the same for sft and the
scripts, their scores are compared document by document, with a sign test over those that differ.
Data: generated tasks of this repository, so that nothing is fetched but the model; or real ones, by
`--data`, `--tasks` and `--general`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from pipeline_script import Found
from side_by_side import table

ROOT = Path(__file__).resolve().parents[1]
# Trained and scored unless others are named.
TASKS = ("mini_numglue_cm", "mini_fomc", "mini_py150")
GENERAL = ("mini_mmlu", "mini_piqa", "mini_bbh", "mini_tydiqa", "mini_gsm8k")
PARTS = ("train", "save", "score", "other")
LOOK_SECONDS = 0.1
BATCH, LR, SEED = 8, 1e-4, 42
SCRIPTS = {"Trainer + hf": "hf", "Trainer + vllm": "vllm"}


def config(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """What all of them train and score, as `cl-bench run` reads it."""
    methods = {"sft": "sft", "fggm": {"name": "fggm", "fisher_examples": 16}}
    found = {
        "name": "pipeline",
        "model": {"path": args.model, "dtype": args.dtype},
        "seeds": [SEED],
        "methods": [methods[method]],
        "stages": [
            {"task": name, "limit": args.limit, "epochs": args.epochs} for name in args.tasks
        ],
        "train": {
            "lr": LR,
            "batch_size": BATCH,
            "max_prompt_tokens": args.prompt,
            "max_answer_tokens": args.answer,
        },
        "eval": {
            "trace": {"limit": args.documents},
            "general": {"tasks": args.general, "limit": args.documents},
            "probes": False,
        },
    }
    return found | ({"data_root": str(args.data.resolve())} if args.data else {})


@dataclass
class Seen:
    """Seconds and peak bytes by part; what every scoring found, that of the base model first."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    work: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Of all processors together."""
    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    found: list[Found] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def total_work(self) -> float:
        return sum(self.work.values())


def watch(command: list[str], folder: Path, at: Any) -> Seen:
    """Run a command to its end; `at()` says which part it is at."""
    seen, last, worked = Seen(), time.perf_counter(), 0.0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # not a cl-bench that is installed
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env=environment)
    while process.poll() is None:
        time.sleep(LOOK_SECONDS)
        now, name = time.perf_counter(), at()
        size, work = used(process.pid)
        seen.seconds[name] += now - last
        seen.work[name] += max(work - worked, 0.0)
        seen.peak[name] = max(seen.peak[name], size)
        last, worked = now, max(work, worked)
    if process.returncode:
        sys.exit((folder / "said").read_text()[-3000:])
    return seen


def used(pid: int) -> tuple[int, float]:
    """Resident bytes and processor seconds of a process and all below it, ended ones included."""
    size, work = 0, 0.0
    try:
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            size += each.memory_info().rss
            work += sum(each.cpu_times()[:4])  # user, system, and both of children that ended
    except psutil.Error:
        pass
    return size, work


def of_status(folder: Path) -> str:
    """What `cl-bench run` says that it is at."""
    file = folder / "results" / "pipeline" / "status.json"
    try:
        doing = json.loads(file.read_text())["status"]["doing"]
    except (OSError, ValueError, KeyError):
        return "other"
    return {"training": "train", "saving": "save", "scoring": "score"}.get(doing, "other")


def of_events(folder: Path) -> str:
    """What the plain script has written down last."""
    try:
        return str(json.loads((folder / "events.jsonl").read_text().splitlines()[-1])[1])
    except (OSError, IndexError, ValueError):
        return "other"


def ours(method: str, args: argparse.Namespace, folder: Path) -> Seen:
    """`cl-bench run`, as a user starts it."""
    command = [sys.executable, "-m", "cl_bench", "run", "config.yaml"]
    seen = watch(command, folder, lambda: of_status(folder))
    root = folder / "results" / "pipeline"
    places = [root / "base", *sorted((root / method / f"seed-{SEED}").glob("stage-*"))]
    for place in places:
        entries = json.loads((place / "scores.json").read_text())
        columns = {**entries["trace"], **entries["general"]}
        kept = {k: v["score"] for k, v in columns.items() if isinstance(v, dict)}
        found = Found(kept)
        for file in sorted((place / "predictions").glob("*.jsonl")):
            found.add(file.stem, map(json.loads, file.read_text().splitlines()))
        seen.found.append(found)
    return seen


def plain(engine: str, args: argparse.Namespace, folder: Path) -> Seen:
    """pipeline_script.py, in a process of its own."""
    command = [sys.executable, str(ROOT / "benchmarks" / "pipeline_script.py"), str(folder)]
    command += ["--engine", engine]
    if args.engine_python:
        command += ["--engine-python", args.engine_python]
    seen = watch(command, folder, lambda: of_events(folder))
    seen.found = [Found(**each) for each in json.loads((folder / "scores.json").read_text())]
    return seen


def contestant(name: str, args: argparse.Namespace) -> Seen:
    """Run one in a folder of its own, which is deleted."""
    with tempfile.TemporaryDirectory(prefix="pipeline-") as place:
        folder = Path(place)
        method = name.removeprefix("cl-bench ")
        settings = config(args, method if name.startswith("cl-bench") else "sft")
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        if name in SCRIPTS:
            return plain(SCRIPTS[name], args, folder)
        return ours(method, args, folder)


def seen_again(values: dict[str, Any]) -> Seen:
    """What `--out` kept of one."""
    return Seen(**{**values, "found": [Found(**each) for each in values["found"]]})


def report(found: dict[str, Seen]) -> str:
    """Seconds and peak memory by part, ratios of the whole, and scores after the last stage."""
    peers = {name: found[name] for name in SCRIPTS if name in found}
    lines = []
    for name, seen in found.items():
        row = [name, f"{seen.total:.0f}, {seen.total_work:.0f}"]
        row += [
            f"{seen.total / peer.total:.2f}, {seen.total_work / peer.total_work:.2f}"
            for peer in peers.values()
        ]
        row += [
            f"{seen.seconds[p]:.0f}, {seen.work[p]:.0f}, {seen.peak[p] / 1e9:.2f}" for p in PARTS
        ]
        lines.append(row)
    heads = ["", "s, CPU s", *(f"x {name}" for name in peers)]
    heads += [f"{part}: s, CPU s, GB" for part in PARTS]
    columns = list(next(iter(found.values())).found[-1].scores)
    scores = [
        [name, *(f"{100 * seen.found[-1].scores[column]:.1f}" for column in columns)]
        for name, seen in found.items()
    ]
    tables = [table(heads, lines), table(["after the last stage", *columns], scores)]
    ours = found.get("cl-bench sft")
    if ours is not None and peers:
        rows = [
            [name, when, *differences(ours.found[since:], peer.found[since:])]
            for name, peer in peers.items()
            for when, since in (("the last stage", -1), ("base and all stages", 0))
        ]
        heads = ["sft against", "after", "documents", "better", "worse", "p of a sign test"]
        tables.append(table(heads, rows))
    return "\n\n".join(tables)


def differences(ours: Sequence[Found], theirs: Sequence[Found]) -> list[str]:
    """How many documents there are, score higher with `ours`, lower, and how likely by chance.

    A document counts in every scoring, so that p is one of independent ones for a single scoring.
    """
    from scipy.stats import binomtest

    pairs = [
        (mine.documents[name], other.documents[name])
        for mine, other in zip(ours, theirs, strict=True)
        for name in mine.documents.keys() & other.documents.keys()
    ]
    better, worse = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    p = binomtest(better, better + worse).pvalue if better + worse else 1.0
    return [str(len(pairs)), str(better), str(worse), f"{p:.2f}"]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="a stage each")
    parser.add_argument("--general", nargs="+", default=GENERAL, help="benchmarks of General")
    parser.add_argument("--data", type=Path, help="where tasks find real data (docs/data.md)")
    parser.add_argument("--limit", type=int, default=48, help="training examples of a stage")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--documents", type=int, default=24, help="of every task that is scored")
    parser.add_argument("--prompt", type=int, default=256, help="tokens of a prompt at most")
    parser.add_argument("--answer", type=int, default=32, help="tokens of an answer at most")
    parser.add_argument("--engine-python", help="a Python with lm-eval and vLLM")
    parser.add_argument("--only", nargs="+", help="contestants whose name contains one of these")
    parser.add_argument("--out", type=Path, help="keep what was found here, and go on with it")
    args = parser.parse_args()
    if args.limit % BATCH:
        parser.error(f"--limit: not a multiple of {BATCH}: Trainer mixes epochs in a batch")
    names = ["cl-bench sft", "cl-bench fggm", "Trainer + hf"]
    names += ["Trainer + vllm"] if args.engine_python else []
    wanted = [name for name in names if not args.only or any(o in name for o in args.only)]
    known = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    found = {name: seen_again(values) for name, values in known.items()}
    for name in wanted:
        if name in found:
            continue
        found[name] = seen = contestant(name, args)
        print(f"{name}: {seen.total:.0f} s", file=sys.stderr, flush=True)
        if args.out:
            kept = {name: dataclasses.asdict(seen) for name, seen in found.items()}
            args.out.write_text(json.dumps(kept))
    print(report(found))


if __name__ == "__main__":
    main()

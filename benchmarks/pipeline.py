"""A whole sequence of stages, beside what people do today: training, saving, scoring after each.

    python benchmarks/pipeline.py [--engine-python PATH] [--stages N] [--limit N] [--out FILE]

Four contestants train the same model on the same examples with as many updates, and score the same
documents of the same tasks after every stage (all stage tasks so far, then General):

cl-bench sft    `cl-bench run`, full fine-tuning
cl-bench fggm   the same with 30 % of the rows
Trainer + hf    a plain script: transformers' Trainer for each task, then lm-eval's `evaluate` with
                `HFLM`, batches of 16, on the model that was trained
Trainer + vllm  the same, each stage scored by lm-eval on a vLLM of its own in `--engine-python`

Each has a process of its own. What it is at (train, save, score) is written down as it goes (by
`cl-bench run` once a second), and its processor time and resident memory, those of processes it
starts included, are looked at ten times a second: a part's peak is the largest value seen in it. On
a machine that others use too, processor seconds say more than those of the clock. The base model is
scored by all of them before the first stage. Data: generated tasks of this repository, so that
nothing is fetched but the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from side_by_side import table

TASKS = ("mini_numglue_cm", "mini_fomc", "mini_py150", "mini_numglue_ds")
GENERAL = ("mini_mmlu", "mini_piqa", "mini_bbh", "mini_tydiqa", "mini_gsm8k")
PARTS = ("train", "save", "score", "other")
LOOK_SECONDS = 0.1
BATCH, LR, PROMPT, ANSWER = 8, 1e-4, 256, 32
HF_BATCH = 16
SEED = 42
SCRIPTS = {"Trainer + hf": "hf", "Trainer + vllm": "vllm"}


def config(args: argparse.Namespace, method: str) -> dict[str, Any]:
    """What all of them train and score, as `cl-bench run` reads it."""
    stages = [{"task": name, "limit": args.limit} for name in TASKS[: args.stages]]
    methods = {"sft": "sft", "fggm": {"name": "fggm", "fisher_examples": 16}}
    return {
        "name": "pipeline",
        "model": {"path": args.model, "dtype": args.dtype},
        "seeds": [SEED],
        "methods": [methods[method]],
        "stages": [{**stage, "epochs": args.epochs} for stage in stages],
        "train": {
            "lr": LR,
            "batch_size": BATCH,
            "max_prompt_tokens": PROMPT,
            "max_answer_tokens": ANSWER,
        },
        "eval": {
            "trace": {"limit": args.documents},
            "general": {"tasks": list(GENERAL), "limit": args.documents},
            "probes": False,
        },
    }


# --- The plain script, in a process of its own


@contextmanager
def part(name: str, events: Path) -> Iterator[None]:
    """Write down that it begins and ends."""
    note(events, name)
    yield
    note(events, "other")


def note(events: Path, name: str) -> None:
    with events.open("a") as file:
        file.write(json.dumps([time.time(), name]) + "\n")


def script(engine: str, args: argparse.Namespace, folder: Path) -> None:
    """Trainer for every task, lm-eval after each; scores go to `scores.json`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from cl_bench.checks.preflight import preflight
    from cl_bench.evaluation.engines.choice import Engine
    from cl_bench.experiment.resolve import resolve_file

    experiment = resolve_file(str(folder / "config.yaml"))
    found = preflight(experiment, Engine(), say=lambda line: None)  # tasks, rows, documents
    events, source = folder / "events.jsonl", str(found.model_path)
    dtype = getattr(torch, args.dtype)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    tokenizer = AutoTokenizer.from_pretrained(source)
    names = [task.name for task in experiment.tasks]
    with part("score", events):
        scores = [lm_eval_scores(engine, args, model, tokenizer, source, names, found)]
    for number, name in enumerate(names, 1):
        with part("train", events):
            train(model, tokenizer, found.trained_on(name, SEED), args, folder)
        saved = folder / f"stage-{number}"
        with part("save", events):
            model.save_pretrained(saved)
            tokenizer.save_pretrained(saved)
        with part("score", events):
            seen = names[:number]
            scores.append(lm_eval_scores(engine, args, model, tokenizer, str(saved), seen, found))
    (folder / "scores.json").write_text(json.dumps(scores))


def train(model: Any, tokenizer: Any, examples: Any, args: argparse.Namespace, out: Path) -> None:
    """One stage of full fine-tuning, as a user of Trainer sets it up."""
    import torch
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    rows = []
    for example in examples:
        prompt = tokenizer(example.prompt).input_ids[-PROMPT:]
        answer = tokenizer(example.answer, add_special_tokens=False).input_ids[: ANSWER - 1]
        answer = [*answer, tokenizer.eos_token_id]
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    options = TrainingArguments(
        output_dir=str(out / "trainer"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=args.epochs,
        learning_rate=LR,
        lr_scheduler_type="linear",
        adam_beta2=0.95,
        seed=SEED,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
    )
    collate = DataCollatorForSeq2Seq(tokenizer, padding=True)
    Trainer(model, options, train_dataset=rows, data_collator=collate).train()


def lm_eval_scores(
    engine: str,
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    saved: str,
    stage_tasks: list[str],
    found: Any,
) -> dict[str, float]:
    """The same documents as `cl-bench run` scores, through lm-eval's own `evaluate`."""
    from cl_bench.evaluation.engines.choice import Engine, choose_engine
    from cl_bench.evaluation.engines.opened import Subject, opened

    chosen = Engine("hf", {"batch_size": HF_BATCH})
    if engine == "vllm":
        chosen = choose_engine("vllm", {"max_length": 2048}, args.engine_python)
    model.eval()
    with opened(chosen, Subject(model, tokenizer, Path(saved))) as lm:
        scores = {}
        for name in [*stage_tasks, *GENERAL]:
            scores[name] = lm_eval_score(lm, name, found.suite)
    return scores


def lm_eval_score(lm: Any, name: str, suite: Any) -> float:
    """The first metric that lm-eval gives for one task."""
    from lm_eval.evaluator import evaluate

    task = suite.scored[name]
    if task.OUTPUT_TYPE == "generate_until":
        kept = task.config.generation_kwargs
        task.set_config("generation_kwargs", {**(kept or {}), "max_gen_toks": ANSWER})
    ids = list(suite.documents[name])
    found = evaluate(lm, {name: task}, samples={name: ids}, log_samples=False, bootstrap_iters=0)
    values = found["results"][name]
    return next(v for k, v in values.items() if "," in k and "stderr" not in k)


# --- Ours, and looking at whoever runs


@dataclass
class Seen:
    """Seconds and peak bytes by part, and the score of every column after every stage."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    work: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Of all processors together."""
    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    scores: list[dict[str, float]] = field(default_factory=list)

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    @property
    def total_work(self) -> float:
        return sum(self.work.values())


def watch(command: list[str], folder: Path, at: Any) -> Seen:
    """Run a command to its end; `at()` says which part it is at."""
    seen, last, worked = Seen(), time.perf_counter(), 0.0
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder)
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
        found = json.loads((place / "scores.json").read_text())
        parts = {**found["trace"], **found["general"]}
        seen.scores.append({k: v["score"] for k, v in parts.items() if isinstance(v, dict)})
    return seen


def plain(engine: str, args: argparse.Namespace, folder: Path) -> Seen:
    """The script above, in a process of its own."""
    command = [sys.executable, __file__, "--script", engine, "--folder", str(folder)]
    for name in ("model", "dtype", "stages", "limit", "documents", "epochs", "engine_python"):
        if (value := getattr(args, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    seen = watch(command, folder, lambda: of_events(folder))
    seen.scores = json.loads((folder / "scores.json").read_text())
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


def report(found: dict[str, Seen], args: argparse.Namespace) -> str:
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
    columns = [*TASKS[: args.stages], *GENERAL]
    scores = [
        [name, *(f"{100 * seen.scores[-1][column]:.1f}" for column in columns)]
        for name, seen in found.items()
    ]
    return table(heads, lines) + "\n\n" + table(["after the last stage", *columns], scores)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--stages", type=int, default=3, choices=range(1, len(TASKS) + 1))
    parser.add_argument("--limit", type=int, default=48, help="training examples of a stage")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--documents", type=int, default=24, help="of every task that is scored")
    parser.add_argument("--engine-python", help="a Python with lm-eval and vLLM")
    parser.add_argument("--only", nargs="+", help="contestants whose name contains one of these")
    parser.add_argument("--out", type=Path, help="keep what was found here, and go on with it")
    parser.add_argument("--script", choices=sorted(SCRIPTS.values()), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.script:
        script(args.script, args, args.folder)
        os._exit(0)  # the time of a contestant ends with its work
    names = ["cl-bench sft", "cl-bench fggm", "Trainer + hf"]
    names += ["Trainer + vllm"] if args.engine_python else []
    wanted = [name for name in names if not args.only or any(o in name for o in args.only)]
    known = json.loads(args.out.read_text()) if args.out and args.out.exists() else {}
    found = {name: Seen(**values) for name, values in known.items()}
    for name in wanted:
        if name in found:
            continue
        found[name] = seen = contestant(name, args)
        print(f"{name}: {seen.total:.0f} s", file=sys.stderr, flush=True)
        if args.out:
            args.out.write_text(json.dumps({name: vars(seen) for name, seen in found.items()}))
    print(report(found, args))


if __name__ == "__main__":
    main()

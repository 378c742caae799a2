"""Which engine is fastest for which work: every one answers the same requests, started by cl-bench.

    python benchmarks/engines.py DATA_ROOT --engine-python PATH [--dtypes float32 bfloat16]

`cl-bench` and `hf` (batches of 16) answer with the model in memory, `vllm` in a process of the
Python named. Seconds of the start (loading, compiling, trials, the first request of each work) are
apart from those of the answers; in brackets processor seconds, of all processes, which other load
on the machine hardly changes. Texts, choices and log-likelihoods are compared with those of
`cl-bench` document by document. `--reload` also gives the running vLLM the weights of another
folder, and compares its answers with those of a vLLM that is started with them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from evaluation import DEFAULTS, load_parts
from pipeline import used
from side_by_side import machine, table
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl_bench.data.tokens import encode_prompts
from cl_bench.evaluation.engines.choice import Engine, choose_engine
from cl_bench.evaluation.engines.kept import Kept
from cl_bench.evaluation.engines.opened import Subject, opened
from cl_bench.models.quickstart import quickstart_model
from cl_bench.training.cpu.heap import keep_freed_memory

WINDOW = 4096
PROMPT = 1024
HF_BATCH = 16


class Clock:
    """Seconds and processor seconds since it was made."""

    def __init__(self) -> None:
        self.began, self.work = time.perf_counter(), used(os.getpid())[1]

    def said(self) -> str:
        return f"{time.perf_counter() - self.began:.1f} ({used(os.getpid())[1] - self.work:.0f})"


def engines(args: argparse.Namespace) -> list[Engine]:
    """Those that are compared, ours first."""
    found = [Engine("cl-bench", {"max_length": WINDOW})]
    found.append(Engine("hf", {"batch_size": HF_BATCH, "max_length": WINDOW}))
    if args.engine_python:
        found.append(choose_engine("vllm", {"max_length": WINDOW}, args.engine_python))
    return [each for each in found if not args.only or each.name in ("cl-bench", *args.only)]


def works(args: argparse.Namespace) -> dict[str, list[Any]]:
    """lm-eval's requests of every work."""
    found, documents = {}, args.documents
    for i, work in enumerate(args.work):
        args.documents = documents[min(i, len(documents) - 1)]
        parts, _ = load_parts(work, args)
        found[work] = [request for _, requests in parts for request in requests]
    return found


def answer_all(lm: Any, asked: dict[str, list[Any]], tokenizer: Any) -> dict[str, Any]:
    """Seconds and answers by work."""

    def encode(prompts: Any) -> list[list[int]]:
        return [each.ids for each in encode_prompts(tokenizer, prompts, PROMPT, "left")]

    found = {}
    for work, requests in asked.items():
        lm.encode_prompts = encode if work == "trace" else None
        clock = Clock()
        answers = getattr(lm, requests[0].request_type)(requests)
        found[work] = {"seconds": clock.said(), "answers": answers}
    return found


def first_of(asked: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """One request of every work: what an engine does at its first ones belongs to its start."""
    return {work: requests[:1] for work, requests in asked.items()}


def run(
    engine: Engine, subject: Subject, asked: dict[str, list[Any]], kept: Kept | None = None
) -> dict[str, Any]:
    """One engine: seconds of its `start` (of one that runs: of taking weights), and works."""
    clock = Clock()
    with opened(engine, subject, kept=kept) as lm:
        answer_all(lm, first_of(asked), subject.tokenizer)
        return {"start": clock.said(), **answer_all(lm, asked, subject.tokenizer)}


def different(requests: list[Any], ours: list[Any], theirs: list[Any]) -> str:
    """Of a work, in words."""
    if isinstance(ours[0], str):
        texts = sum(a != b for a, b in zip(ours, theirs, strict=True))
        return f"{texts} of {len(ours)} texts"
    groups: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for request, (a, _), (b, _) in zip(requests, ours, theirs, strict=True):
        groups.setdefault((request.task_name, request.doc_id), []).append((a, b))
    best = [[max(range(len(g)), key=lambda i: g[i][k]) for k in (0, 1)] for g in groups.values()]
    apart = sorted(abs(a - b) for (a, _), (b, _) in zip(ours, theirs, strict=True))
    return (
        f"{sum(a != b for a, b in best)} of {len(best)} choices; log p within {apart[-1]:.1e}, "
        f"half within {apart[len(apart) // 2]:.1e}"
    )


def reloaded(engine: Engine, subjects: list[Subject], asked: dict[str, list[Any]]) -> list[str]:
    """Lines about a running vLLM that is given weights, beside one that is started with them."""
    with Kept() as kept:
        run(engine, subjects[0], {}, kept)
        again = run(engine, subjects[1], asked, kept)
    anew = run(engine, subjects[1], asked)
    lines = [f"given new weights in {again['start']} s, started with them in {anew['start']} s"]
    for work, requests in asked.items():
        answers = anew[work]["answers"], again[work]["answers"]
        lines.append(f"{work}: {different(requests, *answers)} differ")
    return lines


def load(path: Path, dtype: str) -> Subject:
    """A folder's model in memory."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    return Subject(model, AutoTokenizer.from_pretrained(path), path)


def compare(
    dtype: str, asked: dict[str, list[Any]], args: argparse.Namespace
) -> tuple[dict[str, Any], list[list[str]], list[str]]:
    """What every engine answers in this dtype; rows of the table, lines about new weights."""
    subject = load(args.model, dtype)
    found: dict[str, dict[str, Any]] = {}
    for engine in engines(args):
        found[engine.name] = run(engine, subject, asked)
        print(dtype, engine, found[engine.name]["start"], file=sys.stderr, flush=True)
    ours = found["cl-bench"]
    rows = [["start", dtype, "", *(each["start"] for each in found.values()), ""]]
    for work, requests in asked.items():
        seconds = [each[work]["seconds"] for each in found.values()]
        others = [
            f"{name}: {different(requests, ours[work]['answers'], each[work]['answers'])}"
            for name, each in found.items()
            if each is not ours
        ]
        rows.append([work, dtype, str(len(requests)), *seconds, ". ".join(others)])
    lines = []
    if args.reload is not None and "vllm" in found:
        subjects = [subject, load(args.reload, dtype)]
        lines = [f"{dtype}: {line}" for line in reloaded(engines(args)[-1], subjects, asked)]
    return found, rows, lines


def arguments() -> argparse.Namespace:
    """See the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--engine-python")
    parser.add_argument("--only", nargs="+", default=[], help="engines beside cl-bench")
    parser.add_argument("--work", nargs="+", default=list(DEFAULTS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument(
        "--documents", type=int, nargs="+", default=[4], help="of each part, by work"
    )
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--model", type=Path, help="folder; default: SmolLM2-135M")
    parser.add_argument("--reload", type=Path, help="a model of the same shape, other weights")
    parser.add_argument("--out", type=Path, help="answers and seconds, as JSON")
    parser.set_defaults(apart=False)
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = arguments()
    for name in ("lm_eval", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    keep_freed_memory()
    args.model = args.model or quickstart_model()
    asked = works(args)
    kept, rows, lines = {}, [], []
    for dtype in args.dtypes:
        kept[dtype], some, said = compare(dtype, asked, args)
        rows, lines = rows + some, lines + said
    if args.out:
        args.out.write_text(json.dumps(kept))
    names = list(kept[args.dtypes[0]])
    print(table(["work", "dtype", "requests", *names, "differ from cl-bench"], rows))
    print("\n".join(["", machine(), *lines]))


if __name__ == "__main__":
    main()

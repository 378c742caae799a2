"""The shared-prefix engine against lm-eval's HFLM, side by side, part by part.

    python benchmarks/evaluation.py DATA_ROOT --work mmlu choices bbh trace --out results.jsonl

A part (an MMLU subject, PIQA, all of BBH, ...) is answered by every engine in turn before the next
one begins, so that load on the machine falls on all of them; `--apart` makes a part of every task
whose answers are generated, too. Parts that stand in `--out` are not
run again, and `--seconds` ends the command after the part in which that time is over: a long
comparison is made of short commands. Each engine has a process of its own, set up as its users have
it (ours keeps freed memory, as `cl-bench run` does); the other one waits. Loading is not timed.
Answers are compared at every one of `--hf-batches`, and HFLM's with its own at the first.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from cl_bench.data.examples import sample_documents
from cl_bench.data.loading import load_task_set
from cl_bench.data.tokens import encode_prompts
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject, opened
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.shared_prefix.packed_model import Counters
from cl_bench.models.quickstart import quickstart_model
from cl_bench.training.cpu.heap import keep_freed_memory

SEED = 1234
TIE = 1e-4
"""HFLM's two best tokens are tied when their logits are closer than this."""
GROUPS = {"mmlu": "general_mmlu", "bbh": "general_bbh"}
SINGLE = {
    "choices": ["general_piqa", "general_boolq"],
    "gsm8k": ["general_gsm8k"],
    # Of this repository: no data is needed.
    "mini-choices": ["mini_mmlu", "mini_piqa", "mini_boolq"],
    "mini-texts": ["mini_bbh", "mini_tydiqa", "mini_gsm8k"],
}
TRACE = ["cstance", "fomc", "meetingbank", "py150", "scienceqa", "numglue_cm", "numglue_ds"]
TRACE_NAMES = [f"trace_{name}" for name in [*TRACE, "20minuten"]]
DEFAULTS = {"mmlu": (10, 20), "choices": (2, 200), "bbh": (5, 10), "trace": (8, 32)}
"""Parts and documents of each, as in the target table."""


def load_parts(
    work: str, args: argparse.Namespace
) -> tuple[list[tuple[str, list[Any]]], dict[str, Any]]:
    """(name, lm-eval requests) of every part of a work, and its tasks."""
    names = [GROUPS[work]] if work in GROUPS else SINGLE.get(work, TRACE_NAMES)
    suite = load_task_set(names, args.data_root)
    parts, documents = DEFAULTS.get(work, (len(SINGLE.get(work, TRACE_NAMES)), 20))
    chosen = list(suite.tasks)
    step = max(1, len(chosen) // parts)
    chosen = [name for i, name in enumerate(chosen) if i % step == 0][:parts]
    result = []
    for name in chosen:
        task = suite.tasks[name]
        if task.OUTPUT_TYPE == "generate_until":
            limit = args.new_tokens or {"bbh": 128, "trace": 512}.get(work, 256)
            task.set_config("generation_kwargs", {"max_gen_toks": limit}, update=True)
        ids = sample_documents(task, args.documents or documents, SEED)
        task.build_all_requests(samples=ids)
        result.append((name, task.instances))
    if result[0][1][0].request_type == "generate_until" and not args.apart:
        result = [("all", [request for _, requests in result for request in requests])]
    return result, dict(suite.tasks)


def hflm(batch: int) -> Engine:
    """lm-eval's engine with fp32 softmax, in a process of its own."""
    options = {"subprocess": True, "batch_size": batch, "softmax_dtype": "float32"}
    return Engine("hf", options)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and wall-clock seconds."""
    began = time.perf_counter()
    answer = call()
    return answer, time.perf_counter() - began


def run_part(work: str, part: str, requests: list[Any], setup: Setup) -> dict[str, Any]:
    """Every engine's time for a part, and where their answers differ."""
    kind = requests[0].request_type
    encode = setup.encode if work == "trace" else None
    ours = setup.ours
    ours.counters, ours.encode_prompts = Counters(), encode
    ours.packed.counters = ours.counters
    mine, wall = timed(lambda: getattr(ours, kind)(requests))
    record: dict[str, Any] = {
        "work": work,
        "part": part,
        "kind": kind,
        "requests": len(requests),
        "load": os.getloadavg()[0],
        "shared": {"wall": wall, "counters": vars(ours.counters)},
        "right": right(setup.tasks, requests, mine),
        "hf": {},
    }
    first = None
    for batch in setup.batches[work]:
        with opened(hflm(batch), setup.subject) as lm:
            lm.encode_prompts = encode
            theirs, wall = timed(lambda lm=lm: getattr(lm, kind)(requests))
        first = first or theirs
        record["hf"][str(batch)] = {
            "wall": wall,
            "right": right(setup.tasks, requests, theirs),
            **differences(kind, requests, mine, theirs, setup, encode),
            # What HFLM's own batch size changes, between the first of them and this one.
            "itself": differences(kind, requests, first, theirs, setup, encode),
        }
    return record


def right(tasks: dict[str, Any], requests: list[Any], answers: list[Any]) -> int | None:
    """Documents with full marks, as the tasks' own filters and metrics have it."""
    for request, answer in zip(requests, answers, strict=True):
        request.resps, request.filtered_resps = [answer], {}
    count = 0
    for name in dict.fromkeys(request.task_name for request in requests):
        task = tasks[name]
        task._instances = [request for request in requests if request.task_name == name]
        task.apply_filters()
        groups: dict[int, list[Any]] = {}
        for request in task.instances:
            groups.setdefault(request.doc_id, []).append(request)
        for group in groups.values():
            chosen = [next(iter(request.filtered_resps.values())) for request in group]
            marks = task.process_results(group[0].doc, chosen)
            mark = marks.get("acc", marks.get("exact_match"))
            if mark is None:
                return None
            count += bool(mark == 1.0)
    return count


def differences(
    kind: str, requests: list[Any], mine: list[Any], theirs: list[Any], setup: Setup, encode: Any
) -> dict[str, Any]:
    """How far log-likelihoods are apart, which choices and which texts differ."""
    if kind == "generate_until":
        pairs = zip(requests, mine, theirs, strict=True)
        changed = [(r, a, b) for r, a, b in pairs if a != b]
        gaps = [top_two_gap(r.args[0], a, b, setup, encode) for r, a, b in changed]
        return {
            "texts_different": len(changed),
            "not_a_tie": [
                {"doc": r.doc_id, "gap": gap, "shared": a[-80:], "hf": b[-80:]}
                for (r, a, b), gap in zip(changed, gaps, strict=True)
                if gap >= TIE
            ],
        }
    groups: dict[int, list[tuple[float, float]]] = {}
    for request, (a, _), (b, _) in zip(requests, mine, theirs, strict=True):
        groups.setdefault(request.doc_id, []).append((a, b))
    best = [[max(range(len(g)), key=lambda i: g[i][k]) for k in (0, 1)] for g in groups.values()]
    return {
        "largest_difference": max(abs(a - b) for (a, _), (b, _) in zip(mine, theirs, strict=True)),
        "choices_different": sum(a != b for a, b in best),
        "documents": len(best),
    }


def top_two_gap(prompt: str, mine: str, theirs: str, setup: Setup, encode: Any) -> float:
    """How far apart the model's two best tokens are where two texts part."""
    tokenizer = setup.tokenizer
    length = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), None)
    common = mine[:length] if length is not None else min(mine, theirs, key=len)
    ids = encode([prompt])[0] if encode else tokenizer.encode(prompt)
    smallest = float("inf")
    # The texts part within a token or just before it: look at the last few positions.
    new = tokenizer.encode(common, add_special_tokens=False)
    with torch.no_grad():
        whole = torch.tensor([ids + new], device=setup.model.device)
        logits = setup.model(whole, logits_to_keep=min(4, len(new) + 1)).logits[0].float()
    for row in logits:
        first, second = row.topk(2).values.tolist()
        smallest = min(smallest, first - second)
    return smallest


class Setup:
    """The model, and how each engine is run."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.set_num_threads(args.threads)
        os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of the other process
        keep_freed_memory()
        path = args.model or quickstart_model()
        dtype = getattr(torch, args.dtype)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval().to(args.device)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.subject = Subject(self.model, self.tokenizer, Path(path))
        self.ours = SharedPrefixLM(self.model, self.tokenizer)
        self.ours.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)])  # the trial
        self.tasks: dict[str, Any] = {}
        self.batches = dict.fromkeys([*DEFAULTS, *SINGLE], args.hf_batches)
        # TRACE's own inference decodes four prompts at a time.
        self.batches["trace"] = [4]

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Prompts of TRACE's tasks, at most 1024 tokens."""
        return [each.ids for each in encode_prompts(self.tokenizer, prompts, 1024, "left")]


def summary(records: list[dict[str, Any]]) -> str:
    """A line per work: seconds of both engines (HFLM at its best batch size) and their ratio."""
    lines = ["| work | requests | shared prefixes | HFLM, batch | ratio | differences |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for work in dict.fromkeys(record["work"] for record in records):
        rows = [record for record in records if record["work"] == work]
        ours = sum(row["shared"]["wall"] for row in rows)
        totals = {
            b: sum(row["hf"][b]["wall"] for row in rows)
            for b in set.intersection(*(set(row["hf"]) for row in rows))
        }
        batch, theirs = min(totals.items(), key=lambda item: item[1])
        requests = sum(row["requests"] for row in rows)
        lines.append(
            f"| {work} | {requests} | {ours:.1f} s | {theirs:.1f} s, {batch} "
            f"| {theirs / ours:.2f}x | {_differences(rows, batch)} |"
        )
    return "\n".join(lines)


def _differences(rows: list[dict[str, Any]], batch: str) -> str:
    theirs = [row["hf"][batch] for row in rows]
    marks = [row["right"] for row in rows], [each["right"] for each in theirs]
    text = _apart(rows[0]["kind"], theirs)
    if None in marks[0]:
        return text
    return f"{text}; right: {sum(marks[0])} and {sum(marks[1])}"


def _apart(kind: str, rows: list[dict[str, Any]]) -> str:
    if kind == "generate_until":
        texts = sum(row["texts_different"] for row in rows)
        faults = sum(len(row["not_a_tie"]) for row in rows)
        return f"{texts} texts, {faults} of them not at a tie"
    largest = max(row["largest_difference"] for row in rows)
    choices = sum(row["choices_different"] for row in rows)
    return f"{choices} choices, log p within {largest:.1e}"


def main() -> None:
    """Run the parts that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_root", type=Path, nargs="?", help="not for the works of mini tasks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", nargs="+", default=list(DEFAULTS))
    parser.add_argument("--model", help="folder or Hub name; default: SmolLM2-135M in the cache")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--documents", type=int, help="documents of each part")
    parser.add_argument("--new-tokens", type=int, help="of generations: 128 for BBH, 512 for TRACE")
    parser.add_argument("--apart", action="store_true", help="a part for each generation task")
    parser.add_argument("--hf-batches", type=int, nargs="+", default=[8])
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--out", type=Path, default=Path("evaluation-benchmark.jsonl"))
    args = parser.parse_args()
    for name in ("lm_eval", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(record["work"], record["part"]) for record in records}
    began, setup = time.monotonic(), Setup(args)
    for work in args.work:
        parts, setup.tasks = load_parts(work, args)
        for part, requests in parts:
            if (work, part) not in done and time.monotonic() - began < args.seconds:
                records.append(run_part(work, part, requests, setup))
                print(json.dumps(records[-1]), flush=True)
                with args.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    print(summary(records))


if __name__ == "__main__":
    main()

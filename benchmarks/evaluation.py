"""The shared-prefix engine against lm-eval's HFLM, side by side in one process, part by part.

    python benchmarks/evaluation.py DATA_ROOT --work mmlu choices bbh trace --out results.jsonl

A part (an MMLU subject, PIQA, all of BBH, ...) is answered by every engine in turn before the next
one begins, so that load on the machine falls on all of them; `--apart` makes a part of every task
whose answers are generated, too. Parts that stand in `--out` are not
run again, and `--seconds` ends the command after the part in which that time is over: a long
comparison is made of short commands. Seconds are wall clock and CPU time of the process; on a
machine that others use, compare the latter with `--threads 1`.
"""

from __future__ import annotations

import argparse
import copy
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
from cl_bench.data.loading import load_suite
from cl_bench.data.tokens import encode_prompts
from cl_bench.evaluation.engine import SharedPrefixLM
from cl_bench.evaluation.forward import Counters
from cl_bench.evaluation.hflm import TruncatingHFLM
from cl_bench.resources import user_cache

SEED = 1234
TIE = 1e-4
"""HFLM's two best tokens are tied when their logits are closer than this."""
GROUPS = {"mmlu": "general_mmlu", "bbh": "general_bbh"}
SINGLE = {"choices": ["general_piqa", "general_boolq"], "gsm8k": ["general_gsm8k"]}
TRACE = ["cstance", "fomc", "meetingbank", "py150", "scienceqa", "numglue_cm", "numglue_ds"]
TRACE_NAMES = [f"trace_{name}" for name in [*TRACE, "20minuten"]]
DEFAULTS = {"mmlu": (10, 20), "choices": (2, 200), "bbh": (5, 10), "trace": (8, 32)}
"""Parts and documents of each, as in the target table."""


def load_parts(work: str, args: argparse.Namespace) -> list[tuple[str, list[Any]]]:
    """(name, lm-eval requests) of every part of a work."""
    names = [GROUPS[work]] if work in GROUPS else SINGLE.get(work, TRACE_NAMES)
    suite = load_suite(names, args.data_root)
    parts, documents = DEFAULTS.get(work, (1, 20))
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
        return [("all", [request for _, requests in result for request in requests])]
    return result


def hflm(model: Any, tokenizer: Any, encode: Any, batch: int) -> TruncatingHFLM:
    """lm-eval's engine with fp32 softmax."""
    lm = TruncatingHFLM(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),
        batch_size=batch,
        softmax_dtype="float32",
    )
    lm.encode_prompts = encode
    return lm


def timed(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call returns, wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    answer = call()
    return answer, time.perf_counter() - wall, time.process_time() - cpu


def run_part(work: str, part: str, requests: list[Any], setup: Setup) -> dict[str, Any]:
    """Every engine's time for a part, and where their answers differ."""
    kind = requests[0].request_type
    encode = setup.encode if work == "trace" else None
    ours = setup.ours
    ours.counters, ours.encode_prompts = Counters(), encode
    ours.packed.counters = ours.counters
    mine, wall, cpu = timed(lambda: getattr(ours, kind)(requests))
    record: dict[str, Any] = {
        "work": work,
        "part": part,
        "kind": kind,
        "requests": len(requests),
        "load": os.getloadavg()[0],
        "shared": {"wall": wall, "cpu": cpu, "counters": vars(ours.counters)},
        "hf": {},
    }
    for batch in setup.batches[work]:
        lm = hflm(setup.model, setup.tokenizer, encode, batch)
        theirs, wall, cpu = timed(lambda lm=lm: getattr(lm, kind)(requests, disable_tqdm=True))
        record["hf"][str(batch)] = {"wall": wall, "cpu": cpu}
        record |= differences(kind, requests, mine, theirs, setup, encode)
    return record


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
        whole = torch.tensor([ids + new])
        logits = setup.model(whole, logits_to_keep=min(4, len(new) + 1)).logits[0].float()
    for row in logits:
        first, second = row.topk(2).values.tolist()
        smallest = min(smallest, first - second)
    return smallest


class Setup:
    """The model, and how each engine is run."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.set_num_threads(args.threads)
        path = args.model or user_cache() / "models" / "smollm2-135m"
        dtype = getattr(torch, args.dtype)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.ours = SharedPrefixLM(self.model, self.tokenizer)
        self.ours.loglikelihood([Instance("loglikelihood", {}, ("a", "b"), 0)])  # the trial
        self.batches = dict.fromkeys([*DEFAULTS, "gsm8k"], args.hf_batches)
        # TRACE's own inference decodes four prompts at a time.
        self.batches["trace"] = [4]

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Prompts of TRACE's tasks, at most 1024 tokens."""
        return [each.ids for each in encode_prompts(self.tokenizer, prompts, 1024, "left")]


def summary(records: list[dict[str, Any]]) -> str:
    """A line per work: seconds of both engines (HFLM at its best batch size) and their ratio."""
    lines = ["| work | requests | clock | shared prefixes | HFLM, batch | ratio | differences |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for work in dict.fromkeys(record["work"] for record in records):
        rows = [record for record in records if record["work"] == work]
        for clock in ("wall", "cpu"):
            ours = sum(row["shared"][clock] for row in rows)
            totals = {
                b: sum(row["hf"][b][clock] for row in rows)
                for b in set.intersection(*(set(row["hf"]) for row in rows))
            }
            batch, theirs = min(totals.items(), key=lambda item: item[1])
            requests = sum(row["requests"] for row in rows)
            lines.append(
                f"| {work} | {requests} | {clock} | {ours:.1f} s | {theirs:.1f} s, {batch} "
                f"| {theirs / ours:.2f}x | {_differences(rows)} |"
            )
    return "\n".join(lines)


def _differences(rows: list[dict[str, Any]]) -> str:
    if rows[0]["kind"] == "generate_until":
        texts = sum(row["texts_different"] for row in rows)
        faults = sum(len(row["not_a_tie"]) for row in rows)
        return f"{texts} texts, {faults} of them not at a tie"
    largest = max(row["largest_difference"] for row in rows)
    choices = sum(row["choices_different"] for row in rows)
    return f"{choices} choices, log p within {largest:.1e}"


def main() -> None:
    """Run the parts that are missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data_root", type=Path)
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
        for part, requests in load_parts(work, args):
            if (work, part) not in done and time.monotonic() - began < args.seconds:
                records.append(run_part(work, part, requests, setup))
                print(json.dumps(records[-1]), flush=True)
                with args.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    print(summary(records))


if __name__ == "__main__":
    main()

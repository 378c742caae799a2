"""Time of TRACE's summary metrics here against the `rouge` package, on the same pairs in one run.

    pip install rouge==1.0.1
    python benchmarks/metrics.py [--pairs 2000] [--answers .../MeetingBank/test.json]

Without `--answers` the pairs are invented texts of MeetingBank's size (answers of 338 characters in
the median, 1,100 at most); with it, the answers of a TRACE file, each against another one. Exits
with 1 when a value differs from the package's by more than 1e-9 or `score_document` (ROUGE-L and
both BLEU) takes more than half of the package's time for ROUGE-L alone.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cl_bench.metrics.rouge import rouge_l
from cl_bench.metrics.trace import modern_document, score_document

Pair = tuple[str, str]
LIMIT = 0.5


def invented_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Reference and a prediction that shares about half of its words, in sentences."""
    rng = random.Random(seed)
    vocabulary = [f"{rng.choice('abcdefghij')}{n:x}{'ing' * (n % 3)}" for n in range(4000)]
    weights = [1 / (rank + 3) for rank in range(len(vocabulary))]

    def text(words: list[str]) -> str:
        return "".join(w + (". " if rng.random() < 0.06 else " ") for w in words)[:1100].strip()

    pairs = []
    for _ in range(count):
        words = rng.choices(vocabulary, weights, k=round(rng.lognormvariate(4.1, 0.45)))
        other = [w if rng.random() < 0.5 else rng.choices(vocabulary, weights)[0] for w in words]
        pairs.append((text(other), text(words)))
    return pairs


def answer_pairs(path: Path, count: int, seed: int = 0) -> list[Pair]:
    """Answers of a TRACE file, drawn with replacement as prediction and as reference."""
    answers = [row["answer"] for row in json.loads(path.read_text(encoding="utf-8"))]
    rng = random.Random(seed)
    return [(rng.choice(answers), rng.choice(answers)) for _ in range(count)]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The best of `repeats` runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def compare(pairs: list[Pair], repeats: int) -> bool:
    """Print the table; whether values agree and the limit is kept."""
    from rouge import Rouge

    package = Rouge(metrics=["rouge-l"])
    theirs = [package.get_scores(r, p, avg=True)["rouge-l"]["f"] for p, r in pairs]
    ours = [rouge_l(p, r) for p, r in pairs]
    difference = max(abs(a - b) for a, b in zip(ours, theirs, strict=True))
    base = seconds(lambda: [package.get_scores(r, p, avg=True) for p, r in pairs], repeats)
    rows = {
        "rouge 1.0.1, ROUGE-L": base,
        "rouge_l": seconds(lambda: [rouge_l(p, r) for p, r in pairs], repeats),
        "score_document (ROUGE-L, BLEU-1, BLEU-4)": seconds(
            lambda: [score_document("summary", p, r) for p, r in pairs], repeats
        ),
        "modern_document (rouge-score, sacrebleu)": seconds(
            lambda: [modern_document("summary", p, r) for p, r in pairs], repeats
        ),
    }
    sizes = sorted(len(r) for _, r in pairs)
    print(f"{len(pairs)} pairs, references of {sizes[len(sizes) // 2]} characters in the median")
    print(f"largest difference of ROUGE-L to the package: {difference:.1e}\n")
    print("| what | seconds | of the package |\n| --- | --- | --- |")
    for name, value in rows.items():
        print(f"| {name} | {value:.3f} | {value / base:.3f} |")
    return difference <= 1e-9 and rows["score_document (ROUGE-L, BLEU-1, BLEU-4)"] <= LIMIT * base


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--answers", type=Path, help="a TRACE file whose answers are paired")
    arguments = parser.parse_args()
    if arguments.answers:
        pairs = answer_pairs(arguments.answers, arguments.pairs)
    else:
        pairs = invented_pairs(arguments.pairs)
    return 0 if compare(pairs, arguments.repeats) else 1


if __name__ == "__main__":
    sys.exit(main())

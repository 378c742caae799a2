"""What other libraries say of the same predictions as TRACE: the table in docs/metrics.md.

    python benchmarks/library_differences.py TRACE_FOLDER [--golden GOLDEN_FOLDER]

Predictions need no model: MeetingBank and 20Minuten get the first 60 words of the source text,
ScienceQA the next document's answer, Py150 the line before the one asked for. `--golden` adds the
invented items of a folder of golden vectors. Takes some minutes: rouge-score is slow on ScienceQA.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cl_bench.metrics import modern
from cl_bench.metrics.rouge import rouge_l
from cl_bench.metrics.sari import sari
from cl_bench.metrics.similarity import similarity
from cl_bench.metrics.trace import score_corpus

Triple = tuple[str, str, str]  # prediction, reference, source
WORDS = 60


def body(prompt: str) -> str:
    """The text between TRACE's instruction, its cue and the closing cue."""
    inside = re.sub(r"^.*?\n+(?:Meeting transcripts|Paragraph):\n", "", prompt, count=1, flags=re.S)
    return re.sub(r"\n+(?:Summary|Simplification):$", "", inside)


def baseline(folder: Path, name: str) -> list[Triple]:
    """Test rows of a task with a prediction that needs no model."""
    rows = json.loads((folder / name / "test.json").read_text(encoding="utf-8"))
    prompts, answers = ([row[key] for row in rows] for key in ("prompt", "answer"))
    if name == "ScienceQA":
        predictions = [*answers[1:], answers[0]]
    elif name == "Py150":
        predictions = [["", *prompt.split("<EOL>")[:-1]][-1].strip() for prompt in prompts]
    else:
        predictions = [" ".join(body(prompt).split()[:WORDS]) for prompt in prompts]
    return list(zip(predictions, answers, prompts, strict=True))


def golden(folder: Path, name: str) -> list[Triple]:
    """The single items of a golden file that TRACE's code can score."""
    cases = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["cases"]
    single = [c for c in cases if len(c["predictions"]) == 1 and "raises" not in c]
    return [(c["predictions"][0], c["references"][0], c.get("inputs", [""])[0]) for c in single]


def mean(function: Callable[[str, str], float], triples: Sequence[Triple]) -> float:
    return sum(function(p, r) for p, r, _ in triples) / len(triples)


def package_rouge(kind: str, stem: bool) -> Callable[[str, str], float]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=stem)

    def score(prediction: str, reference: str) -> float:
        if kind == "rougeLsum":  # the package splits sentences at newlines
            prediction, reference = (text.replace(".", ".\n") for text in (prediction, reference))
        return float(scorer.score(reference, prediction)[kind].fmeasure)

    return score


def texts(name: str, triples: Sequence[Triple]) -> Mapping[str, float]:
    """All on 0-1."""
    trace = score_corpus(name, *zip(*triples, strict=True)).metrics
    start = 2 if name == "ScienceQA" else 0
    pairs = [(p[start:], r[start:], s) for p, r, s in triples]
    values = {
        "rouge-L, TRACE": trace["rouge-L"],
        "rouge-L, arguments not swapped": mean(lambda p, r: rouge_l(r, p), pairs),
        "rouge-score rougeL": mean(package_rouge("rougeL", False), pairs),
        "rouge-score rougeL, stemmed": mean(package_rouge("rougeL", True), pairs),
        "rouge-score rougeLsum": mean(package_rouge("rougeLsum", False), pairs),
        "bleu-4, TRACE": trace["bleu-4"],
        "sacrebleu sentence": mean(modern.sacrebleu_sentence, pairs) / 100,
        "sacrebleu corpus": modern.sacrebleu_corpus(*list(zip(*pairs, strict=True))[:2]) / 100,
    }
    if name == "20Minuten":
        values["sari / 100, TRACE (full prompt)"] = trace["sari"] / 100
        bare = [sari(body(s), p, r) for p, r, s in triples]
        values["sari / 100, paragraph only"] = sum(bare) / len(bare) / 100
    return values


def code(name: str, triples: Sequence[Triple]) -> Mapping[str, float]:
    """Similarity on 0-1 by backend."""
    return {
        "similarity / 100, difflib (TRACE)": mean(similarity, triples) / 100,
        "similarity / 100, levenshtein": mean(lambda p, r: similarity(p, r, "levenshtein"), triples)
        / 100,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trace", type=Path, help="folder of MeetingBank/test.json and so on")
    parser.add_argument("--golden", type=Path, help="folder of golden vectors")
    arguments = parser.parse_args()
    columns: dict[str, Mapping[str, float]] = {}
    for name in ("MeetingBank", "20Minuten", "ScienceQA", "Py150"):
        sources = {name: baseline(arguments.trace, name)}
        if arguments.golden:
            sources[f"{name}, golden"] = golden(arguments.golden, name)
        for label, triples in sources.items():
            function = code if name == "Py150" else texts
            columns[f"{label} ({len(triples)})"] = function(name, triples)
    print("| metric | " + " | ".join(columns) + " |")
    print("| --- " * (len(columns) + 1) + "|")
    for metric in dict.fromkeys(metric for values in columns.values() for metric in values):
        shown = (f"{v[metric]:.4f}" if metric in v else "" for v in columns.values())
        print(f"| {metric} | " + " | ".join(shown) + " |")


if __name__ == "__main__":
    main()

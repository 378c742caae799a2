"""What each of the eight TRACE tasks is scored by (TRACE, arXiv 2310.06762; its released code).

Per document, `score` is the headline metric on a 0-1 scale (TRACE's published tables use Py150's
similarity / 100 and SARI / 100), and its mean over documents is TRACE's number exactly. Where
TRACE's own code fails on a document, every metric of that document is 0 and it is counted as
unscorable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from cl_bench.errors import UserError
from cl_bench.metrics import accuracy, modern
from cl_bench.metrics.bleu import bleu
from cl_bench.metrics.rouge import rouge_l, rouge_l_fails
from cl_bench.metrics.sari import sari
from cl_bench.metrics.similarity import Backend, similarity
from cl_bench.metrics.trace_tasks import TASKS, TraceTask, trace_task
from cl_bench.scores.uncertainty import mean, standard_error

_HEADLINE: Mapping[str, TraceTask] = MappingProxyType({t.kind: t for t in TASKS.values()})
# TRACE calls what follows the letter and one separator character the reasoning.
_REASONING_START = 2


def score_document(
    kind: str,
    prediction: str,
    reference: str,
    source: str | None = None,
    *,
    backend: Backend = "difflib",
) -> dict[str, float]:
    """Every TRACE metric of one document, on TRACE's scales, with `score` and `unscorable`.

    `score` is the headline on 0-1, `unscorable` 1.0 where TRACE's code fails (all metrics are 0
    then) and else 0.0. `source` is the full prompt, needed by `simplification` only. Raises
    KeyError for an unknown kind and ValueError for a missing source.
    """
    metrics = _METRICS[kind](prediction, reference, source, backend)
    failed = _fails(kind, prediction, reference)
    if failed:
        metrics = dict.fromkeys(metrics, 0.0)
    task = _HEADLINE[kind]
    score = metrics[task.headline] / task.headline_maximum
    return {**metrics, "score": score, "unscorable": float(failed)}


def modern_document(kind: str, prediction: str, reference: str) -> dict[str, float]:
    """The modern column of one document (see `modern`); keys name the library or `lenient`.

    `sacrebleu_sentence` is 0-100, `similarity_levenshtein` 0-100, the rest 0-1.
    """
    if kind == "label":
        return {"lenient_accuracy": modern.lenient_letter(prediction, reference)}
    if kind == "number":
        return {"lenient_accuracy": modern.lenient_number(prediction, reference)}
    if kind == "code":
        value = similarity(prediction, reference, "levenshtein")
        return {"similarity_levenshtein": value}
    values = {}
    if kind == "choice_with_reasoning":
        values["lenient_accuracy"] = modern.lenient_letter(prediction, reference)
    ours, theirs = _text_of(kind, prediction), _text_of(kind, reference)
    values["rouge_score_rougeL"] = modern.rouge_score_l(ours, theirs)
    values["sacrebleu_sentence"] = modern.sacrebleu_sentence(ours, theirs)
    return values


@dataclass(frozen=True)
class CorpusScore:
    """Scores of one task over its documents.

    `score` and its standard error are 0-1 (None below two documents); `metrics` has TRACE's keys
    and scales; `modern` is never TRACE's. For closed answers `majority` is the accuracy of the best
    constant answer and `labels` the shares of the predicted ones. None: has no meaning here.
    """

    task: str
    n: int
    n_unscorable: int
    score: float
    stderr: float | None
    metrics: dict[str, float]
    modern: dict[str, float]
    majority: float | None = None
    labels: dict[str, float] | None = None
    similarity_backend: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values without the fields that do not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def score_corpus(
    task: str,
    predictions: Sequence[str],
    references: Sequence[str],
    sources: Sequence[str] | None = None,
    *,
    backend: Backend = "difflib",
) -> CorpusScore:
    """TRACE's numbers over all documents of a task, and the modern column.

    Without documents every number is 0 (TRACE divides by zero). Raises UserError for an unknown
    task, unequal lengths or missing sources.
    """
    spec = trace_task(task)
    inputs = _checked_sources(spec, predictions, references, sources)
    triples = list(zip(predictions, references, inputs, strict=True))
    documents = [score_document(spec.kind, p, r, s, backend=backend) for p, r, s in triples]
    keys = _METRICS[spec.kind]("", "", "", backend)
    answers = [_answer_of(spec.kind, text) for text in predictions]
    expected = [_answer_of(spec.kind, text) for text in references]
    classes = spec.labels or sorted(set(expected))
    closed = spec.kind in ("label", "choice_with_reasoning")
    return CorpusScore(
        task=spec.name,
        n=len(documents),
        n_unscorable=int(sum(document["unscorable"] for document in documents)),
        score=_mean(document["score"] for document in documents),
        stderr=standard_error([document["score"] for document in documents]),
        metrics={key: _mean(document[key] for document in documents) for key in keys},
        modern=_modern_corpus(spec.kind, predictions, references),
        majority=accuracy.majority_baseline(expected) if closed else None,
        labels=accuracy.label_shares(answers, classes) if closed else None,
        similarity_backend=backend if spec.kind == "code" else None,
    )


def _checked_sources(
    task: TraceTask,
    predictions: Sequence[str],
    references: Sequence[str],
    sources: Sequence[str] | None,
) -> Sequence[str | None]:
    """The sources, or a None for every document where the metric does not read them."""
    faults = []
    if len(predictions) != len(references):
        faults.append(f"{task.name}: {len(predictions)} predictions, {len(references)} references")
    if sources is None and task.needs_input and predictions:
        faults.append(f"{task.name}: the metric reads the input of every document; none given")
    elif sources is not None and len(sources) != len(predictions):
        faults.append(f"{task.name}: {len(predictions)} predictions, {len(sources)} inputs")
    if faults:
        raise UserError(faults)
    return sources if sources is not None else [None] * len(predictions)


def _modern_corpus(
    kind: str, predictions: Sequence[str], references: Sequence[str]
) -> dict[str, float]:
    """Means over documents, and sacrebleu's corpus BLEU where there is text."""
    documents = [modern_document(kind, p, r) for p, r in zip(predictions, references, strict=True)]
    values = {key: _mean(d[key] for d in documents) for key in modern_document(kind, "", "")}
    if "sacrebleu_sentence" in values:
        texts = ([_text_of(kind, text) for text in side] for side in (predictions, references))
        values["sacrebleu_corpus"] = modern.sacrebleu_corpus(*texts)
    return values


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return mean(listed) if listed else 0.0


def _answer_of(kind: str, text: str) -> str:
    return text[:1] if kind == "choice_with_reasoning" else text


def _text_of(kind: str, text: str) -> str:
    return text[_REASONING_START:] if kind == "choice_with_reasoning" else text


def _fails(kind: str, prediction: str, reference: str) -> bool:
    """Whether TRACE's code raises on this document."""
    if kind == "choice_with_reasoning" and not (prediction and reference):
        return True
    if kind in ("choice_with_reasoning", "summary", "simplification"):
        return rouge_l_fails(_text_of(kind, prediction), _text_of(kind, reference))
    return False


_Scorer = Callable[[str, str, str | None, Backend], dict[str, float]]


def _exact(prediction: str, reference: str, _: str | None, __: Backend) -> dict[str, float]:
    return {"accuracy": accuracy.exact_match(prediction, reference)}


def _overlap(prediction: str, reference: str, _: str | None, __: Backend) -> dict[str, float]:
    return {
        "bleu-1": bleu(prediction, reference, 1),
        "bleu-4": bleu(prediction, reference, 4),
        "rouge-L": rouge_l(prediction, reference),
    }


def _choice(prediction: str, reference: str, source: str | None, x: Backend) -> dict[str, float]:
    start = _REASONING_START
    return {
        **_overlap(prediction[start:], reference[start:], source, x),
        "accuracy": accuracy.first_character_match(prediction, reference),
    }


def _code(prediction: str, reference: str, _: str | None, backend: Backend) -> dict[str, float]:
    return {"similarity": similarity(prediction, reference, backend)}


def _simplification(
    prediction: str, reference: str, source: str | None, backend: Backend
) -> dict[str, float]:
    if source is None:
        raise ValueError("SARI needs the source text (the full prompt) of every document")
    return {
        **_overlap(prediction, reference, source, backend),
        "sari": sari(source, prediction, reference),
    }


_METRICS: Mapping[str, _Scorer] = MappingProxyType(
    {
        "label": _exact,
        "number": _exact,
        "choice_with_reasoning": _choice,
        "summary": _overlap,
        "code": _code,
        "simplification": _simplification,
    }
)

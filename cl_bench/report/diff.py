"""What `cl-bench diff` prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from cl_bench.report.tables import Column, code, percentages, table
from cl_bench.results.compare import Pair, TaskDiff
from cl_bench.results.places import Place
from cl_bench.scores.uncertainty import Comparison

WIDTH = 100
"""Characters of an answer or target that are shown."""


def diff_lines(first: Place, second: Place, diffs: Sequence[TaskDiff], show: int) -> Iterator[str]:
    """Markdown: a line for each task, then each group's members, then `show` documents of each."""
    yield f"A: {code(str(first.path))}"
    yield f"B: {code(str(second.path))}"
    yield ""
    yield from _table(diffs)
    yield ""
    yield (
        "forgotten: right in A, wrong in B; learned: the other way round (*: scores that may lie "
        "between; fell, rose). B - A over the same documents with its 95 % interval; p: of the "
        "same t test, below 0.05 where the interval excludes 0. "
        "other: answered otherwise. log-lik.: largest difference in nats."
    )
    if of_all := [diff.task for diff in diffs if diff.of_all]:
        yield (
            f"{', '.join(of_all)}: a number of all documents together; its interval is from the "
            "same resampled documents on both sides. forgotten and learned count single answers."
        )
    for diff in diffs:
        for side, reason in diff.not_measured.items():
            yield ""
            yield f"{diff.task}: not measured in {side}: {reason}."
    for diff in diffs:
        if diff.members and len(diffs) == 1:
            yield ""
            yield f"## {diff.task}: members"
            yield ""
            yield from _table(list(diff.members.values()))
        if show:
            yield from _documents(diff, show)


def diff_json(first: Place, second: Place, diffs: Sequence[TaskDiff]) -> str:
    """The same as one JSON object, with all documents that changed."""
    tasks = {diff.task: diff.to_json() for diff in diffs}
    return json.dumps({"a": str(first.path), "b": str(second.path), "tasks": tasks}, indent=1)


def _table(diffs: Sequence[TaskDiff]) -> Iterator[str]:
    titles = ["n", "A", "B", "forgotten", "learned", "B - A", "95 % interval", "p"]
    columns = [Column("task", "left"), *map(Column, [*titles, "other", "log-lik."])]
    yield from table(columns, [_row(diff) for diff in diffs])


def _row(diff: TaskDiff) -> list[str]:
    gap = diff.loglikelihood_gap
    return [
        diff.task + ("*" if diff.graded else ""),
        str(len(diff.pairs)),
        percentages([{"value": diff.before}]),
        percentages([{"value": diff.after}]),
        str(len(diff.forgotten)),
        str(len(diff.learned)),
        *_difference(diff.comparison),
        "-" if diff.other_answers is None else str(diff.other_answers),
        "-" if gap is None else f"{gap:.2g}",
    ]


def _difference(compared: Comparison | None) -> list[str]:
    """B - A, its interval and p."""
    if compared is None:
        return ["-", "-", "-"]
    interval = "-"
    if compared.low is not None and compared.high is not None:
        interval = f"{100 * compared.low:+.2f} to {100 * compared.high:+.2f}"
    p_value = "-" if compared.p_value is None else f"{compared.p_value:.2g}"
    return [f"{100 * compared.difference:+.2f}", interval, p_value]


def _documents(diff: TaskDiff, show: int) -> Iterator[str]:
    fell, rose = ("fell", "rose") if diff.graded else ("forgotten", "learned")
    for what, pairs in ((fell, diff.forgotten), (rose, diff.learned)):
        if pairs:
            most = sorted(pairs, key=lambda pair: -abs(pair.change))[:show]
            yield ""
            yield f"## {diff.task}: {what} ({len(most)} of {len(pairs)})"
            for pair in most:
                yield ""
                yield from _document(pair)


def _document(pair: Pair) -> Iterator[str]:
    leaf, document = pair.key
    yield f"{leaf} {document}: target {_short(pair.before['target'])}"
    for name, record in (("A", pair.before), ("B", pair.after)):
        score = "-" if record["score"] is None else f"{100 * record['score']:.0f}"
        yield f"  {name} ({score}): {_answer(record)}"


def _answer(record: dict[str, Any]) -> str:
    if "prediction" in record:
        return _short(record["prediction"])
    values = record["loglikelihoods"]
    likelihoods = ", ".join("-" if value is None else f"{value:.2f}" for value in values)
    picked = f"choice {record['choice']}, " if "choice" in record else ""
    return f"{picked}log-likelihoods {likelihoods}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."

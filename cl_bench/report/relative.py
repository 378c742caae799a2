"""Numbers beside those of the base model, of plain fine-tuning, and of the bounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cl_bench.report.document import (
    Block,
    Cell,
    Column,
    Heading,
    Number,
    Paragraph,
    Table,
    percent,
)
from cl_bench.results.methods import MethodResult
from cl_bench.scores.cells import Measure
from cl_bench.scores.matrix import Summary, op_final
from cl_bench.scores.relative import intransigence, quotient

PLAIN = "sft"
_SAID = (
    "Quotients in percent: General beside that of the base model, General and OP final beside "
    "those of `sft`. intransigence: a bound's score minus the score right after learning, mean "
    "over tasks, in points (positive: not learned as well); the bound is one model of all tasks, "
    "or one of each. ± takes the two runs as independent, which is rather too much. -: nothing to "
    "compare with."
)
_COLUMNS = [
    Column("method", "left"),
    Column("General / base"),
    Column(f"General / {PLAIN}"),
    Column(f"OP final / {PLAIN}"),
    Column("intransigence, all at once"),
    Column("intransigence, each alone"),
]
Beside = Callable[[Summary, Summary], Measure]


def relative_section(base: Summary, results: Sequence[MethodResult]) -> Iterator[Block]:
    """Quotients and intransigence of finished methods; nothing where there is no other to name.

    Runs are compared in the order of their seeds, where both methods have the same number.
    """
    finished = [result for result in results if result.complete]
    plain = next((result for result in finished if result.label == PLAIN), None)
    joint = next((result for result in finished if result.setting == "joint"), None)
    single = next((result for result in finished if result.setting == "single"), None)
    shown = [result for result in finished if result not in (joint, single)]
    if not shown or len(finished) < 2:
        return
    yield Heading("Relative numbers")
    yield Paragraph(_SAID)
    rows: list[list[Cell]] = [
        [
            result.label,
            _number([_general(own, base) for own in result.summaries]),
            _number(_each(result, plain, _general)),
            _number(_each(result, plain, _op)),
            _number(_each(result, joint, _not_learned), signed=True),
            _number(_each(result, single, _not_learned), signed=True),
        ]
        for result in shown
    ]
    yield Table("relative", _COLUMNS, rows)


def _each(result: MethodResult, other: MethodResult | None, beside: Beside) -> list[Measure]:
    if other is None or other is result or len(other.summaries) != len(result.summaries):
        return []
    return [beside(a, b) for a, b in zip(result.summaries, other.summaries, strict=True)]


def _general(own: Summary, other: Summary) -> Measure:
    return quotient(own.general_final().mean, other.general_final().mean)


def _op(own: Summary, other: Summary) -> Measure:
    return quotient(op_final(own.matrix), op_final(other.matrix))


def _not_learned(own: Summary, other: Summary) -> Measure:
    return intransigence(own.matrix, other.matrix)


def _number(measures: Sequence[Measure], signed: bool = False) -> Number:
    return percent([measure.to_json() for measure in measures], signed=signed)

"""The lines of the screen, and the time that is left."""

from __future__ import annotations

import pytest

from cl_bench.live.forecast import Forecast, Part, Rates
from cl_bench.live.screen import lines, matrix
from cl_bench.live.status import Row, Status, general_of, status_of

TASKS = tuple(f"trace_{name}" for name in ("cstance", "fomc", "meetingbank", "py150", "scienceqa"))
BENCHMARKS = ("mmlu", "piqa")
FULL = Status(
    experiment="trace",
    doing="training",
    what="fggm, seed 42, stage 2/5 trace_fomc",
    run=2,
    runs=3,
    stages=15,
    stages_done=6,
    epoch=1,
    epochs=3,
    update=30,
    updates=120,
    loss=1.25,
    tokens_per_second=1234.5,
    memory_mb=5120,
    stage_left=83.0,
    all_left=3725.0,
    tasks=TASKS,
    benchmarks=BENCHMARKS,
    rows=(
        Row("base", {"trace_cstance": 33.3, "trace_fomc": 20.0, "mmlu": 40.0, "piqa": 60.0}),
        Row("1 cstance", {"trace_cstance": 55.5, "mmlu": 38.0}),
    ),
)


def test_a_wide_screen_says_everything() -> None:
    assert lines(FULL, 140) == [
        "trace: fggm, seed 42, stage 2/5 trace_fomc (run 2 of 3)",
        "training  epoch 1/3  update 30/120  [#####---------------]  loss 1.250  1,234 tokens/s  "
        "memory 5,120 MB",
        "time left: 1:23 for this stage, 1:02:05 for all  6 of 15 stages done",
        "          cstance    fomc meeting   py150 science General    mmlu    piqa",
        "base         33.3    20.0       .       .       .    50.0    40.0    60.0",
        "1 cstance    55.5       .       .       .       .       .    38.0       .",
    ]


@pytest.mark.parametrize("width", [10, 25, 40, 80, 100])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    shown = lines(FULL, width)
    assert max(map(len, shown)) <= width
    assert "1.250" in " ".join(shown) and "1:02:05" in " ".join(shown)


def test_general_and_the_last_columns_stay_where_there_is_little_room() -> None:
    head, base, *_ = matrix(FULL, 40)
    assert head.split() == ["py150", "science", "General"] and base.split() == [
        *("base", ".", ".", "50.0")
    ]
    assert matrix(FULL, 40)[-1] == "(+3 columns)"


def test_general_is_the_mean_of_all_benchmarks_or_nothing() -> None:
    base, first = FULL.rows
    assert general_of(base, BENCHMARKS) == 50.0 and general_of(first, BENCHMARKS) is None


def test_what_is_written_is_read_back_also_from_another_version() -> None:
    written = FULL.as_json()
    assert status_of(written | {"later": 1}) == FULL
    assert status_of({"experiment": "x"}) == Status(experiment="x")


PARTS = [
    Part("a", "sft", 100.0, {"one": 10}),
    Part("b", "sft", 200.0, {"one": 10, "two": 5}),
    Part("c", "ewc", 50.0, {}),
]


def test_time_left_is_the_sum_of_what_is_not_done() -> None:
    rates = Rates({"sft": 0.1, "ewc": 0.4}, {"one": 1.0, "two": 2.0})
    own, whole = Forecast(PARTS, rates).left("b", 0.25, 0.5)
    # Of b three quarters of 200 characters and half of 10 x 1 + 5 x 2 seconds; then 50 x 0.4.
    assert own.seconds == pytest.approx(15 + 10) and own.whole
    assert whole.seconds == pytest.approx(25 + 20) and whole.whole
    assert Forecast(PARTS, rates).left("a", 1.0, 1.0)[1].seconds == pytest.approx(20 + 20 + 20)
    assert Forecast(PARTS, rates).left("", 0.0, 0.0)[1].seconds == pytest.approx(20 + 60)


def test_what_is_not_known_is_not_made_up() -> None:
    own, whole = Forecast(PARTS, Rates({}, {"one": 1.0})).left("a", 0.0, 0.0)
    assert (own.seconds, own.whole) == (10.0, False) and not whole.whole
    known = Forecast(PARTS, Rates({"sft": 0.1}, {"one": 1.0})).left("c", 0.0, 0.0)[0]
    assert (known.seconds, known.whole) == (5.0, True), "the mean of the other methods"


@pytest.mark.parametrize("data", [None, [], {"training": 3}, {"training": {"sft": "x"}}])
def test_rates_of_a_damaged_file_are_none(data: object) -> None:
    assert Rates.of(data) == Rates()
    assert Rates.of(Rates({"sft": 0.5}, {"one": 2.0}).as_json()) == Rates(
        {"sft": 0.5}, {"one": 2.0}
    )

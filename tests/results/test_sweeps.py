"""Which methods differ in one number alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cl_bench.results.methods import load_results
from cl_bench.results.sweeps import Sweep, settings_of, sweeps, sweeps_of
from tests.helpers.invented_runs import Invented

FEW = {"mmlu": 4}
TASKS = {"trace_fomc": 4}


def found(tmp_path: Path, settings: Mapping[str, Mapping[str, Any]]) -> list[Sweep]:
    made = Invented(
        methods=dict.fromkeys(settings, (0.1, 0.1)),
        benchmarks=FEW,
        tasks=TASKS,
        settings=settings,
    ).write(tmp_path)
    return sweeps([(result.label, result) for result in load_results(made)])


def fggm(alpha: float, **rest: Any) -> dict[str, Any]:
    return {"method": [{"fggm": {"alpha": alpha, "aggregation": "input"} | rest}]}


def test_values_rise_and_every_other_setting_is_the_same(tmp_path: Path) -> None:
    settings = {
        "c": fggm(0.9),
        "a": fggm(0.5),
        "b": fggm(0.7),
        "columns": fggm(0.7, aggregation="output"),
        "more": fggm(0.7) | {"epochs": 9},
        "sft": {"method": [{"sft": {}}]},
    }
    assert found(tmp_path, settings) == [
        Sweep("fggm", "alpha", {0.5: "a", 0.7: "b", 0.9: "c"}),
    ]


def test_lines_of_two_settings_and_of_compositions(tmp_path: Path) -> None:
    def both(alpha: float, ratio: float) -> dict[str, Any]:
        return {"method": [{"fggm": {"alpha": alpha}}, {"replay": {"ratio": ratio}}]}

    settings = {"a": both(0.5, 0.1), "b": both(0.7, 0.1), "c": both(0.5, 0.2)}
    assert found(tmp_path, settings) == [
        Sweep("fggm + replay", "alpha", {0.5: "a", 0.7: "b"}),
        Sweep("fggm + replay", "ratio", {0.1: "a", 0.2: "c"}),
    ]


def test_words_switches_and_other_methods_are_no_sweep(tmp_path: Path) -> None:
    settings = {
        "a": fggm(0.5, scope="tensor"),
        "b": fggm(0.5, scope="model"),
        "c": fggm(0.5, scope="tensor", first=True),
        "d": fggm(0.5, scope="tensor", first=False),
        "e": {"method": [{"piece": {"alpha": 0.7, "aggregation": "input", "scope": "tensor"}}]},
    }
    assert found(tmp_path, settings) == []


def test_a_stage_with_a_value_of_its_own_counts_for_nothing() -> None:
    """Every method has 2e-5 in the second stage; what differs is the rate of the first."""

    def known(rate: float, second: float = 2e-5) -> Any:
        return settings_of(
            [{"method": [{"sft": {}}], "train": {"lr": lr}} for lr in (rate, second)]
        )

    assert sweeps_of({"low": known(1e-6), "high": known(1e-5)}) == [
        Sweep("sft", "lr", {1e-6: "low", 1e-5: "high"})
    ]
    assert not sweeps_of({"low": known(1e-6, 1e-7), "high": known(1e-5, 1e-6)})

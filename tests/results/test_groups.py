"""Which experiments stand in one table, and why others do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl_bench.errors import UserError
from cl_bench.report.overview import Overview, read_overview
from cl_bench.report.written import write_report
from cl_bench.results.groups import Chosen, choose
from tests.helpers.invented_runs import HOW, TASKS, Invented

FEW = {"mmlu": 20, "piqa": 20}
ONE = Invented(name="one", benchmarks=FEW)


def overview(results: Path, *experiments: Invented) -> Overview:
    return read_overview([Chosen(each.write(results)) for each in experiments])


def other(**changes: object) -> Invented:
    return Invented(**{"name": "two", "benchmarks": FEW, **changes})  # type: ignore[arg-type]


def test_the_same_settings_with_other_seeds_are_one_method(tmp_path: Path) -> None:
    found = overview(tmp_path, ONE, other(seeds=(2, 3)))
    assert len(found.groups) == 1
    assert {label: r.seeds for label, r in found.groups[0].methods()} == {
        label: [1, 2, 3] for label in ("sft", "ewc", "fggm")
    }
    general = found.found[0].methods[0].differences["general", "base"].compared
    assert general is not None and general.comparison.n_seeds == 3


def test_the_same_label_twice_is_told_by_the_experiment(tmp_path: Path) -> None:
    found = overview(tmp_path, ONE, other(methods={"sft": (0.1, 0.3), "gem": (0.1, 0.3)}))
    labels = [label for label, _ in found.groups[0].methods()]
    assert labels == ["sft (one)", "ewc", "fggm", "sft (two)", "gem"]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "owner/larger"}, "another model (larger)"),
        ({"tasks": dict(reversed(TASKS.items()))}, "stages: were trace_fomc"),
        ({"benchmarks": {"mmlu": 20}}, "General: piqa in one of them alone"),
        ({"benchmarks": {"mmlu": 20, "piqa": 21}}, "piqa: 20 and 21 documents"),
        ({"how": {"harness_version": "0.4.12"}}, "mmlu: harness version 0.4.13 and 0.4.12"),
        ({"how": {"protocol": "opencompass-2023"}}, "mmlu: protocol lm-eval and opencompass-2023"),
        ({"how": {"shots": "5"}}, "mmlu: shots 0 and 5"),
        ({"marks": "others"}, "data: other test documents of"),
    ],
)
def test_what_cannot_be_compared_is_kept_apart(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    assert "harness_version" in HOW
    found = overview(tmp_path, ONE, other(**changes))
    assert [[e.name for e in group.experiments] for group in found.groups] == [["one"], ["two"]]
    assert any(why in line for line in found.groups[1].apart), found.groups[1].apart
    text = write_report([Chosen(tmp_path / n) for n in ("one", "two")], tmp_path).text
    assert (
        "## one: owner/model" in text and f"Kept apart from the first: {why.split(':')[0]}" in text
    )


def test_what_is_not_there_is_named_at_once(tmp_path: Path) -> None:
    ONE.write(tmp_path)
    with pytest.raises(UserError) as raised:
        choose(["onne", "one/stf", "one/sft/seed-9", str(tmp_path / "one/ewc/seed-1")], tmp_path)
    assert len(raised.value.faults) == 3
    assert "did you mean 'one'" in raised.value.faults[0]
    assert "did you mean 'sft'" in raised.value.faults[1]
    assert "no 'seed-9'" in raised.value.faults[2]

"""Large models: `plan`, the check before a run and the page on scaling have one count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cl_bench.experiment.card import card_faults
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.spec import Experiment
from cl_bench.report.plan import plan_text
from tests.helpers.configs import write

GB = 10**9
PAGE = Path(__file__).parents[2] / "docs" / "processes.md"
SHARD, REST = ("train.shard=true",), ("train.gradient_checkpointing=true",)


def large(folder: Path, method: str, *overrides: str) -> Experiment:
    """Qwen2-7B, of which no file is here."""
    config = write(folder, model={"path": "Qwen/Qwen2-7B"}, methods=[method])
    return resolve_file(config, [*REST, *overrides])


def planned(experiment: Experiment, processes: int, card: float) -> tuple[float, bool]:
    """GB in total, and whether the card holds it, as the table of `plan` says."""
    rows = [line.split("|") for line in plan_text(experiment, [card], None, processes).splitlines()]
    fits = next(i for i, row in enumerate(rows) if len(row) > 8 and "fits" in row[8])
    return float(rows[fits + 2][7]), rows[fits + 2][8].strip() == f"{card:g}"


@pytest.mark.parametrize(
    ("method", "processes", "overrides", "fits", "remedy"),
    [
        ("fggm", 1, (), True, ""),
        ("sft", 1, (), False, "offload: [optimiser] or start more processes with shard: true"),
        ("sft", 8, (), False, "offload: [optimiser] or give shard: true"),
        ("sft", 8, SHARD, True, ""),
        ("sft", 1, ("train.offload=[optimiser]",), True, ""),
    ],
)
def test_a_model_of_7_billion_on_cards_of_80_gb(
    tmp_path: Path, method: str, processes: int, overrides: tuple[str, ...], fits: bool, remedy: str
) -> None:
    """What `plan` says fits, `run` begins; what cannot fit, it refuses with what would help."""
    experiment = large(tmp_path, method, *overrides)
    assert planned(experiment, processes, 80)[1] == fits
    faults = list(card_faults(experiment, 80 * GB, processes))
    assert len(faults) == (not fits)
    if not fits:
        assert "stage 1 holds 137.1 GB" in faults[0] and f"give {remedy}" in faults[0], faults
    assert not list(card_faults(experiment, None, processes)), "not a card"


def test_the_page_has_the_plan_s_figures(tmp_path: Path) -> None:
    """Both tables of docs/processes.md, in GB."""
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith(("| `migu`", "| `fggm`")):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows.setdefault(cells[0].split("`")[1], []).append([float(c) for c in cells[1:]])
    assert rows.keys() == {"migu", "fggm"}
    for method, (shard, offload) in rows.items():
        given = f"train.max_prompt_tokens=1024 {REST[0]}".split()
        one, eight = (
            planned(large(tmp_path, method, *given, *more), count, 80)[0]
            for count, more in ((1, ()), (8, SHARD))
        )
        assert shard[:2] == [one, eight] and offload[0] == one
        for place, parts in ((1, "optimiser"), (3, "optimiser,weights")):
            experiment = large(tmp_path, method, *given, f"train.offload=[{parts}]")
            assert offload[place] == planned(experiment, 1, 80)[0]
            (line,) = [x for x in plan_text(experiment).splitlines() if "in main memory" in x]
            (told,) = re.findall(r": ([\d.]+) GB more", line)
            assert offload[place + 1] == pytest.approx(float(told), abs=0.06)

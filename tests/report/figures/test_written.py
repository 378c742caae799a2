"""Figures beside a report: where, when they are drawn, and where they are linked."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from cl_bench.cli import run_command
from cl_bench.report.figures import drawing
from cl_bench.report.figures.files import save
from cl_bench.report.figures.loss import POINTS, losses
from cl_bench.report.written import Wanted, Written, write_report
from cl_bench.results.groups import choose
from tests.helpers.invented_runs import Invented

LINK = re.compile(r"!\[[^]]+\]\(([^)]+)\)")
SMALL = Invented(
    name="small",
    methods={"sft": (0.2, 0.5), "fggm": (0.1, 0.4)},
    benchmarks={"mmlu": 20, "piqa": 20},
    tasks={"trace_fomc": 20, "trace_py150": 20},
    updates=3,
)
DRAWN = ["stages", "front", "matrix", "changes", "loss"]


def report(results: Path, *names: str, **wanted: object) -> Written:
    chosen = choose([str(results / name) for name in names], results)
    return write_report(chosen, results, Wanted(figures=True, **wanted))  # type: ignore[arg-type]


def links(file: Path) -> list[str]:
    return LINK.findall(file.read_text())


def test_what_has_data_is_drawn_and_linked_from_the_file_alone(tmp_path: Path) -> None:
    folder = SMALL.write(tmp_path)
    made = report(tmp_path, "small")
    assert links(made.file) == [f"report-figures/{name}.svg" for name in DRAWN]
    assert "![" not in made.text and len(made.text.splitlines()) <= 40
    assert made.file.read_text().startswith(made.text.rstrip("\n"))
    assert sorted(f.stem for f in (folder / "report-figures").iterdir()) == sorted(DRAWN)
    for link in links(made.file):
        ET.parse(folder / link)
    full = report(tmp_path, "small", full=True)
    assert links(full.file) == links(made.file) and "![" not in full.text
    for wanted in ({"table": "main"}, {"format": "csv"}, {"format": "json"}, {"format": "latex"}):
        assert "report-figures" not in report(tmp_path, "small", **wanted).file.read_text()


def test_only_what_changed_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = SMALL.write(tmp_path)
    report(tmp_path, "small")
    before = {f.name: f.read_bytes() for f in (folder / "report-figures").iterdir()}
    saved: list[str] = []

    def noted(figure: Any, file: Path, key: str) -> None:
        saved.append(file.stem)
        save(figure, file, key)

    monkeypatch.setattr(drawing, "save", noted)
    report(tmp_path, "small")
    assert not saved
    log = next((folder / "sft").rglob("train.jsonl"))
    log.write_text(log.read_text() + '{"step": 4, "loss": 1.0}\n')
    (folder / "report-figures/matrix.svg").write_text("<svg/>")
    (folder / "report-figures/kl.svg").write_text("of other data")
    (folder / "report-figures/matrix-of-mine.svg").write_text("mine")
    report(tmp_path, "small")
    assert saved == ["matrix", "loss"]
    after = {f.name: f.read_bytes() for f in (folder / "report-figures").iterdir()}
    assert after.pop("matrix-of-mine.svg") == b"mine" and after.pop("loss.svg") != before.pop(
        "loss.svg"
    )
    assert after == before, "the same data gives the same bytes; what has none is gone"


def test_several_experiments_have_a_folder_beside_their_report(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    Invented(name="other", model="owner/other", benchmarks={"mmlu": 20}, tasks=SMALL.tasks).write(
        tmp_path
    )
    made = report(tmp_path, "small", "other")
    place = "report-small+other-figures"
    assert f"{place}/matrix.svg" in links(made.file) and f"{place}/matrix-2.svg" in links(made.file)
    assert "![other: owner/other: Scores" in made.file.read_text()
    assert all((tmp_path / link).is_file() for link in links(made.file))


def test_they_are_in_the_page_once(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    report(tmp_path, "small")
    page = report(tmp_path, "small", format="html").file.read_text()
    assert page.count("<figure ") == page.count('<figure class="drawn"') == len(DRAWN)
    assert page.count("data:image/svg+xml") == len(DRAWN) and "<h2>Figures</h2>" in page


def test_unfinished_and_damaged_runs(tmp_path: Path) -> None:
    folder = SMALL.write(tmp_path)
    (folder / "fggm/seed-1/stage-2-trace_py150/scores.json").unlink()
    log = folder / "fggm/seed-1/stage-2-trace_py150/train.jsonl"
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": "NaN"}\n{"step": 3, "lo')
    assert losses(log) == [(1.0, 2.0)]
    made = report(tmp_path, "small")
    assert "report-figures/matrix.svg" in links(made.file)
    assert "report-figures/front.svg" in links(made.file), "of sft"
    assert "report-figures/loss.svg" in links(made.file)
    Invented(name="none", methods={}, benchmarks={"mmlu": 20}).write(tmp_path)
    made = report(tmp_path, "none")
    assert not links(made.file) and "## Figures" not in made.file.read_text()
    assert not (tmp_path / "none/report-figures").exists()


def test_many_updates_are_joined(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    count = 2 * POINTS + 1
    file.write_text("".join(f'{{"step": {n}, "loss": {n}}}\n' for n in range(1, count + 1)))
    found = losses(file)
    assert len(found) == count // 3 + 1 and found[0] == (2.0, 2.0) and found[-1][0] > count - 2


def test_a_folder_that_cannot_be_written_costs_the_figures_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = SMALL.write(tmp_path)
    (folder / "report-figures").touch()
    made = report(tmp_path, "small")
    assert not links(made.file) and "figures were not drawn" in capsys.readouterr().err


def test_the_switch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = SMALL.write(tmp_path)
    place = ["--results", str(tmp_path)]
    assert run_command(["report", "small", "--no-figures", *place]) == 0
    assert not (folder / "report-figures").exists() and not links(folder / "report.md")
    assert run_command(["report", "small", *place]) == 0
    out, _ = capsys.readouterr()
    assert links(folder / "report.md") and "![" not in out

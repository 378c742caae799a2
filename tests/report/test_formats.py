"""Markdown, LaTeX, CSV and JSON of a fixed run; `CL_BENCH_GOLDEN=write` writes what is expected."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from cl_bench.cli import run_command
from cl_bench.report.as_latex import as_latex, escape
from cl_bench.report.document import Column, Number, Table
from cl_bench.report.written import Wanted, write_report
from cl_bench.results.groups import choose
from tests.helpers.invented_runs import Invented
from tests.helpers.rendered import must_render

GOLDEN = Path(__file__).parent / "golden"
ODD = r"a_b & 50 % {α} ~^\ #1 $x$ <|>"
FIXED = Invented(
    name="fixed",
    seeds=(1, 2),
    benchmarks={"mmlu": 40, "piqa": 40},
    config={
        "expected": [
            {"kind": "published", "source": "Some 2020", "numbers": {"sft": {"general": 12.34}}}
        ]
    },
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    FIXED.write(folder)
    Invented(name="odd", methods={"sft": (0.3, 0.3), ODD: (0.1, 0.1)}).write(folder)
    return folder


def text_of(results: Path, name: str = "fixed", **wanted: object) -> str:
    chosen = choose([str(results / name)], results)
    made = write_report(chosen, results, Wanted(**wanted))  # type: ignore[arg-type]
    assert made.file.read_text() == made.text and made.file.parent == results / name
    return made.text


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("report.md", {}),
        ("report-full.md", {"full": True}),
        ("report.tex", {"format": "latex"}),
        ("report-matrix.tex", {"format": "latex", "table": "matrix"}),
        ("report.csv", {"format": "csv"}),
        ("report-lost.csv", {"format": "csv", "table": "lost"}),
    ],
)
def test_it_is_what_it_was(results: Path, file: str, wanted: dict[str, object]) -> None:
    text = text_of(results, **wanted)
    assert (results / "fixed" / file).read_text() == text
    if os.environ.get("CL_BENCH_GOLDEN") == "write":
        GOLDEN.mkdir(exist_ok=True)
        (GOLDEN / file).write_text(text)
    assert text == (GOLDEN / file).read_text()


def test_all_formats_say_the_same(results: Path) -> None:
    """Numbers of CSV and JSON, rounded, are those of the Markdown table."""
    (table,) = json.loads(text_of(results, format="json", table="main"))["tables"]
    rows = list(csv.DictReader(io.StringIO(text_of(results, format="csv", table="main"))))
    (shown,) = must_render(text_of(results, table="main"))
    keys = table["columns"]
    assert len(rows) == len(table["rows"]) == len(shown) - 1 == 4
    for record, row, line in zip(table["rows"], rows, shown[1:], strict=True):
        for key, cell in zip(keys, line, strict=True):
            if not isinstance(record[key], dict):
                assert record[key] == row[key] == cell
                continue
            value = record[key]["value"]
            assert row[key] == ("" if value is None else str(value))
            digits = len(cell.strip("*?").split(" ")[0].partition(".")[2])
            first = cell.strip("*?").split(" ")[0]
            assert (
                first == "-"
                if value is None
                else float(first) == pytest.approx(value, abs=0.51 * 10**-digits)
            )
            if record[key].get("resolved") is not None:
                assert cell.endswith("?") != record[key]["resolved"]
                assert row[f"{key}_resolved"] == str(record[key]["resolved"])
            if record[key].get("spread_of") == "seeds":
                assert "(sd)" in cell and row[f"{key}_spread_of"] == "seeds"


def test_json_says_what_there_is_to_know(results: Path) -> None:
    found = json.loads(text_of(results, format="json", full=True))
    (group,) = found["groups"]
    assert group["paired"] and group["comparisons"] == 10 and group["baseline"] == "sft"
    assert group["smallest_difference"].startswith("Smallest true difference")
    names = {table["name"] for table in found["tables"]}
    assert {"main", "lost", "matrix", "general", "protocol", "learned", "pairs"} <= names
    assert found["damaged"] == [] and any("Holm" in term for term in found["terms"])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="apt-get install texlive-latex-base")
@pytest.mark.parametrize("rules", ["", r"\usepackage{booktabs}"])
def test_latex_compiles(results: Path, tmp_path: Path, rules: str) -> None:
    """With the rules of booktabs where they are installed, and with plain ones."""
    if rules and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("booktabs is in texlive-latex-recommended")
    (tmp_path / "tables.tex").write_text(text_of(results, "odd", format="latex", full=True))
    document = rf"\documentclass{{article}}{rules}\usepackage{{graphicx}}"
    (tmp_path / "paper.tex").write_text(
        document + r"\begin{document}\input{tables}\end{document}" + "\n"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 5000
    assert "Overfull" not in done.stdout, "a table is wider than the text"


def test_latex_takes_any_text() -> None:
    assert escape("50 % & _{x}^2 ~ # $ \\") == (
        r"50 \% \& \_\{x\}\textasciicircum{}2 \textasciitilde{} \# \$ \textbackslash{}"
    )
    assert escape("日") == "U+65E5"
    table = Table(
        "t",
        [Column("method", "left"), Column("Δ")],
        [["x", Number(-1.25, spread=0.5, of="seeds", resolved=False, best=True, signed=True)]],
        "Some",
    )
    lines = as_latex([table]).splitlines()
    assert r"x & $\mathbf{-1.2} \pm 0.5^{?}$ \\" in lines and r"method & $\Delta$ \\" in lines
    (caption,) = [line for line in lines if line.startswith(r"\caption")]
    assert "a standard deviation over seeds" in caption and "not resolved" in caption


def test_files_are_named_and_said(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results.parent)
    place = ["--results", str(results)]
    for words, name in (
        (["--format", "json"], "report.json"),
        (["--table", "probe pairs", "--full"], None),
        (["--table", "lost", "--format", "latex"], "report-lost.tex"),
    ):
        code = run_command(["report", "fixed", *words, *place])
        out, err = capsys.readouterr()
        if name is None:
            assert code == 2 and "--table probe pairs: no such table in this report" in err
            continue
        assert code == 0 and f"written: {results / 'fixed' / name}" in err
        assert (results / "fixed" / name).read_text() == out
    assert run_command(["report", "fixed", "odd", *place]) == 0
    assert (results / "report-fixed+odd.md").is_file()

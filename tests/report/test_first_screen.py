"""What the first screen shows: forty lines of a hundred columns, whatever there is to report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from cl_bench.cli import run_command
from cl_bench.report.as_markdown import markdown, split
from cl_bench.report.document import Column, Number, Table
from cl_bench.report.written import Wanted, Written, write_report
from cl_bench.results.groups import choose
from tests.helpers.invented_runs import Invented
from tests.helpers.rendered import must_render

FEW = {"mmlu": 20, "piqa": 20}


def report(results: Path, *names: str, **wanted: object) -> Written:
    given = [str(results / name) for name in names]
    return write_report(choose(given, results), results, Wanted(**wanted))  # type: ignore[arg-type]


def of_methods(count: int) -> dict[str, tuple[float, float]]:
    return {**{f"method-{i}": (i / 100, 0.3) for i in range(count - 1)}, "sft": (0.3, 0.5)}


@pytest.mark.parametrize(("methods", "seeds"), [(1, 1), (2, 1), (4, 3), (11, 2), (30, 2)])
def test_it_fits_a_screen(tmp_path: Path, methods: int, seeds: int) -> None:
    tasks = {"trace_fomc": 10, "trace_py150": 10}
    invented = Invented(methods=of_methods(methods), seeds=range(1, seeds + 1), tasks=tasks)
    invented.write(tmp_path)
    text = report(tmp_path, "invented").text
    lines = text.splitlines()
    assert len(lines) <= 40 and max(map(cell_len, lines)) <= 100
    tables = must_render(text)
    main, lost = tables[0], tables[-1]
    shown = [row[0] for row in main[1:]]
    hidden = [int(n) for n in re.findall(r"Not shown: (\d+) methods?", text)]
    assert shown[:1] == ["ori (base)"] and "sft" in shown
    assert len(shown) - 1 + sum(hidden) == methods
    assert bool(hidden) == (methods > 12)
    assert len(lost) > 3 and {"before", "after", "verdict"} <= set(lost[0])
    assert "Smallest true difference" in text and "--full" in text
    for benchmark in invented.benchmarks if methods < 5 else ():
        assert any(benchmark in table[0] for table in tables[:-1])


def test_groups_give_way_last_and_are_counted(tmp_path: Path) -> None:
    for i in range(6):
        Invented(name=f"e{i}", model=f"owner/model-{i}", benchmarks=FEW).write(tmp_path)
    text = report(tmp_path, *(f"e{i}" for i in range(6))).text
    assert len(text.splitlines()) <= 40
    (hidden,) = re.findall(r"(\d+) groups? of experiments", text)
    assert len(re.findall(r"^## e\d: owner", text, re.M)) == 6 - int(hidden)


def test_a_narrow_terminal(tmp_path: Path) -> None:
    Invented().write(tmp_path)
    chosen = choose([str(tmp_path / "invented")], tmp_path)
    text = write_report(chosen, tmp_path, width=40).text
    assert max(map(cell_len, text.splitlines())) <= 40
    for table in must_render(text):
        assert table[0][0] == "method"


def test_a_plain_console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cl_bench.terminal import in_ascii

    Invented(benchmarks=FEW).write(tmp_path)
    text = in_ascii(report(tmp_path, "invented").text)
    assert text.isascii() and "|d base|" in text and "+-" in text


def test_tables_are_split_between_columns_that_belong_together() -> None:
    columns = [
        Column("method", "left"),
        Column("a" * 20),
        Column("b" * 20),
        Column("c", joined=True),
    ]
    whole = Table("t", columns, [["x", Number(1.0), Number(2.0), Number(3.0)]])
    parts = split(whole, 50)
    assert [[c.title[0] for c in part.columns] for part in parts] == [["m", "a"], ["m", "b", "c"]]
    assert len(split(whole, 60)) == 1
    floating = replace(whole, columns=[columns[0], replace(columns[1], floats=True), *columns[2:]])
    assert [[c.title[0] for c in p.columns] for p in split(floating, 50)] == [
        *(["m", "a"], ["m", "b", "c"])
    ]
    assert markdown([whole], None, screen=False)[2] == (
        f"| x      | {'1.0':>20} | {'2.0':>20} |  3.0 |"
    )


def test_best_is_bold_and_costs_are_not(tmp_path: Path) -> None:
    Invented().write(tmp_path)
    text = report(tmp_path, "invented", format="json", table="main").text
    (table,) = json.loads(text)["tables"]
    rows = {row["method"]: row for row in table["rows"]}
    best = {
        label: [k for k, v in row.items() if isinstance(v, dict) and v.get("best")]
        for label, row in rows.items()
    }
    general = {label: row["general"]["value"] for label, row in rows.items() if "ori" not in label}
    assert "general" in best[max(general, key=general.__getitem__)]
    assert not best["ori (base)"] and not any("time" in keys for keys in best.values())
    assert rows["ewc"]["old_data"] == "statistics" and rows["sft"]["old_data"] == "nothing"
    assert rows["ewc"]["time"]["value"] == pytest.approx(1.1)
    assert rows["fggm"]["memory"]["value"] == pytest.approx(300 / 900)


def test_published_numbers_have_columns_of_their_own(tmp_path: Path) -> None:
    source = {"kind": "published", "source": "Some 2020", "numbers": {"sft": {"general": 12.34}}}
    Invented(config={"expected": [source]}).write(tmp_path)
    full = must_render(report(tmp_path, "invented", full=True).text)
    main = full[0]
    assert main[0][-1] == "published: General"
    assert [row[-1] for row in main[1:]] == ["-", "12.34", "-", "-"]


def test_unequal_seeds_and_unfinished_runs_are_said(tmp_path: Path) -> None:
    folder = Invented(seeds=(1, 2), benchmarks=FEW).write(tmp_path)
    for file in (folder / "fggm/seed-2").rglob("*"):
        if file.is_file():
            file.unlink()
    (folder / "ewc/seed-1/stage-3-trace_py150/scores.json").unlink()
    text = " ".join(report(tmp_path, "invented").text.split())
    assert "Seeds: 2, but fggm 1." in text
    assert "Unfinished: ewc (5 of 6 stages)." in text


def test_an_empty_folder_and_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert run_command(["report", "empty"]) == 2
    assert "empty: no experiment" in capsys.readouterr().err
    folder = Invented(benchmarks=FEW).write(tmp_path / "results")
    other = Invented(name="other", benchmarks=FEW).write(tmp_path / "results")
    file = folder / "ewc/seed-1/stage-3-trace_py150/predictions/general_piqa.jsonl"
    file.write_text(file.read_text().replace('"score": 1.0', '"score": 0.0', 1))
    (other / "base/scores.json").write_text("{")
    assert run_command(["report", "invented", "other"]) == 1
    out, err = capsys.readouterr()
    assert "general_piqa.jsonl: not as it was written" in err and "other/base/scores.json" in err
    (main,) = [t for t in must_render(out) if "General" in t[0]][:1]
    assert [row[0] for row in main[1:]] == ["ori (base)", "sft", "ewc", "fggm"]
    assert "Damaged, and left out" in out
    assert run_command(["report", "other"]) == 1
    assert run_command(["report", "invented", "--baseline", "sfd"]) == 2
    assert "did you mean 'sft'" in capsys.readouterr().err
    assert run_command(["report", "invented", "--table", "mian"]) == 2
    assert "did you mean 'main'" in capsys.readouterr().err

"""What `eval` scored stands beside the scores of the stage and of the base model."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.conftest import Bench
from tests.helpers.read import scores_of

STAGE = "sft/seed-1/stage-2-trace_numglue_ds"


def cell(place: Path, part: str, task: str) -> str:
    """A score with its error and documents, written by hand."""
    entry = scores_of(place)[part][task]
    return f"{100 * entry['score']:.1f} ± {100 * entry['stderr']:.1f} ({entry['n']})"


def cells(line: str) -> list[str]:
    return [text.strip() for text in line.strip("| \n").split("|")]


def test_eval_says_and_the_report_lists_its_scores(bench: Bench) -> None:
    bench.trained()
    assert "Scored again" not in bench.must("report", "tiny", "--full")
    asked = ("eval", "tiny", "--stage", "2", "--method", "sft", "--limit", "3", "--task", "general")
    code, out, err = bench.run(*asked, "--task", "FOMC")
    assert code == 0
    (file,) = out.split()
    place, stage, base = Path(file).parent, bench.results / STAGE, bench.results / "base"
    wanted = [
        ["FOMC", *(cell(p, "trace", "trace_fomc") for p in (place, stage, base))],
        ["piqa", *(cell(p, "general", "piqa") for p in (place, stage, base))],
    ]
    said = [cells(line) for line in err.splitlines() if line.startswith("|")]
    assert said[0] == ["task", "eval", "stage", "base"] and said[2:] == wanted
    assert "(3)" in wanted[0][1] and "(6)" in wanted[0][2]
    report = bench.must("report", "tiny", "--full")
    rows = [cells(line) for line in report.split("Scored again")[1].splitlines() if "| " in line]
    assert rows[2:4] == [["sft", "2", *row] for row in wanted]
    assert bench.must(*asked, "--task", "FOMC").split() == [file], "again, and nothing is scored"


def test_a_task_that_the_run_had_not_stands_alone(bench: Bench) -> None:
    bench.trained()
    asked = ("eval", "tiny", "--stage", "1", "--method", "sft", "--task", "trace_numglue_ds")
    _, _, err = bench.run(*asked)
    (row,) = [cells(line) for line in err.splitlines() if line.startswith("| NumGLUE-ds")]
    assert row[2] == "-" and row[1] != "-" and row[3] != "-"

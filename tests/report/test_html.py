"""The HTML report as a file: what it holds, that it needs nothing else, that nothing escapes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from cl_bench.cli import run_command
from cl_bench.report import document_browser as module
from cl_bench.report.document_browser import CHARACTERS, FEWEST, document_browser
from cl_bench.report.html_page import POLICY, data_script, rich_text
from cl_bench.report.written import Wanted, write_report
from cl_bench.results.compare import Key
from cl_bench.results.groups import choose, open_all
from cl_bench.results.in_context import InContextRow
from cl_bench.results.shown_documents import Wording
from cl_bench.store.folders import read_json, read_records, write_records
from cl_bench.store.seals import file_records, write_sealed
from tests.helpers.invented_runs import Invented

HIDDEN = "\x1b[2J\u202e"
NASTY = (
    "</script><script>alert(1)</script> \"'&amp;<img src=x onerror=alert(2)> \u2028\u2029 \ud800"
)
VOID = {"meta", "img", "input", "br"}
SMALL = Invented(
    name="small", methods={"sft": (0.3, 0.5)}, benchmarks={"mmlu": 40}, tasks={"trace_fomc": 30}
)


class Parsed(HTMLParser):
    """Elements, texts by element, and that every one that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def data(self) -> Any:
        """What the browser of documents is given."""
        place = [attrs.get("id") for tag, attrs in self.elements if tag == "script"].index("data")
        return json.loads(self.texts["script"][place])


def answer(place: Path, task: str, texts: dict[int, str]) -> None:
    """Let a place have answered with these texts, sealed as if it had."""
    file = place / f"predictions/{task}.jsonl"
    records = read_records(file)
    for number, text in texts.items():
        records[number]["prediction"] = text
        del records[number]["choice"]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    names = [f"predictions/{each.name}" for each in sorted(file.parent.iterdir())]
    scores = read_json(place / "scores.json")
    for key in ("sha256", "seal", "files"):
        scores.pop(key, None)
    write_sealed(place / "scores.json", {**scores, "files": file_records(place, names)})


def written(results: Path, *names: str, **wanted: object) -> tuple[str, Path]:
    chosen = choose([str(results / name) for name in names], results)
    made = write_report(chosen, results, Wanted(format="html", **wanted))  # type: ignore[arg-type]
    assert made.text == f"{made.file}\n" and not made.faults
    return made.file.read_text(), made.file


def test_it_is_one_file_with_all_tables_and_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Invented(name="fixed", seeds=(1, 2)).write(tmp_path)
    (folder / "some.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert run_command(["report", "fixed", "--format", "html", "--results", str(tmp_path)]) == 0
    out, _ = capsys.readouterr()
    assert out == f"{folder / 'report.html'}\n"
    page = Parsed((folder / "report.html").read_text())
    tables = {attrs["data-name"] for tag, attrs in page.elements if tag == "table"}
    assert {"main", "lost", "matrix", "general", "learned", "pairs", "runs", "data"} <= tables
    for tag, attrs in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "action"):
            assert (attrs.get(name) or "#").startswith(("#", "data:image/")), (tag, attrs)
    assert any(tag == "img" and attrs["alt"] == "some" for tag, attrs in page.elements)
    assert any(attrs.get("content") == POLICY for tag, attrs in page.elements)
    data = page.data()
    assert "url(" not in page.texts["style"][0] and "@import" not in page.texts["style"][0]
    (experiment,) = data["experiments"]
    assert [run["name"] for run in experiment["runs"]][:2] == ["sft, seed 1", "sft, seed 2"]
    assert experiment["places"][:2] == ["base", "stage 1: FOMC"]


def test_documents_are_those_of_the_records(tmp_path: Path) -> None:
    """Scores at every place, and which place is `just learned`."""
    folder = Invented(name="fixed").write(tmp_path)
    data = Parsed(written(tmp_path, "fixed")[0]).data()
    (experiment,) = data["experiments"]
    paths = [folder / "base"]
    paths += [
        s for label in ("sft", "ewc", "fggm") for s in sorted((folder / label).glob("*/stage*"))
    ]
    names = [*(f"general_{name}" for name in Invented().benchmarks), *Invented().tasks]
    seen = set()
    for task, answers in zip(experiment["tasks"], experiment["answers"], strict=True):
        leaf = task["documents"][0][0]
        seen.add(leaf)
        assert len(answers) == len(paths)
        for path, side in zip(paths, answers, strict=True):
            file = path / f"predictions/{leaf}.jsonl"
            assert (side is not None) == file.is_file()
            if side is not None:
                scores = {record["doc_id"]: record["score"] for record in read_records(file)}
                assert task["total"] == len(scores) == len(side)
                held = {d[1]: a[0] for d, a in zip(task["documents"], side, strict=True)}
                assert held == scores
        for own, run in zip(task["own"], experiment["runs"], strict=True):
            place = experiment["places"][own]
            assert (place == "base") == (task["kind"] == "General")
            assert place == "base" or (task["name"] in place and own in run["places"])
    assert seen == set(names)


def test_what_a_model_wrote_stays_text(tmp_path: Path) -> None:
    folder = SMALL.write(tmp_path)
    (stage,) = (folder / "sft/seed-1").glob("stage-1*")
    huge = "x" * 400_000
    answer(stage, "trace_fomc", {0: NASTY, 1: huge, 2: HIDDEN})
    text, _ = written(tmp_path, "small")
    assert text.count("</script>") == 2 and "onerror" not in text.replace("\\u003cimg src=x on", "")
    assert "\u2028" not in text and "\u2029" not in text
    page = Parsed(text)
    texts = page.data()["texts"]
    lines = NASTY.replace("\u2028", "\n").replace("\u2029", "\n").replace("\ud800", "\\ud800")
    assert lines in texts and "\\x1b[2J\\u202e" in texts
    (cut,) = [each for each in texts if each.startswith("xx")]
    assert len(cut) < 1600 and f"[... {400_000 - CHARACTERS:,} characters" in cut
    assert [tag for tag, _ in page.elements].count("script") == 2


def test_names_and_sentences_are_escaped(tmp_path: Path) -> None:
    odd = "a<b>&\"'`**"
    Invented(name="odd", methods={"sft": (0.3, 0.3), odd: (0.1, 0.1)}).write(tmp_path)
    page = Parsed(written(tmp_path, "odd")[0])
    assert odd in page.texts["th"] and not [tag for tag, _ in page.elements if tag == "b"]
    assert rich_text("**a < `b*c`** `` x`<y `` & 1") == (
        "<strong>a &lt; <code>b*c</code></strong> <code>x`&lt;y</code> &amp; 1"
    )
    assert json.loads(data_script("x", NASTY).split(">", 1)[1][: -len("</script>")]) == (
        NASTY.replace("\ud800", "\ufffd")
    )


def test_many_documents_are_cut_and_those_that_fell_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = SMALL.write(tmp_path)
    monkeypatch.setattr(module, "DOCUMENTS", 7)
    data = Parsed(written(tmp_path, "small")[0]).data()
    assert data["notes"][0].startswith("At most 7 documents of a task")
    (experiment,) = data["experiments"]
    general = [task["kind"] for task in experiment["tasks"]].index("General")
    task, (base, last) = experiment["tasks"][general], experiment["answers"][general]
    assert task["total"] == 40 and len(task["documents"]) == 7
    (stage,) = (folder / "sft/seed-1").glob("stage-1*")
    sides = [
        [r["score"] for r in read_records(place / "predictions/general_mmlu.jsonl")]
        for place in (folder / "base", stage)
    ]
    fell = sum(b < a for a, b in zip(*sides, strict=True))
    assert sum(b[0] < a[0] for a, b in zip(base, last, strict=True)) == min(7, fell) > 3
    monkeypatch.setattr(module, "ANSWERS", 0)
    (experiment,) = Parsed(written(tmp_path, "small")[0]).data()["experiments"]
    assert len(experiment["tasks"][0]["documents"]) == FEWEST


def test_words_are_read_where_they_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SMALL.write(tmp_path)

    def read(
        folder: Path, wanted: dict[str, list[int]]
    ) -> tuple[dict[Key, Wording], dict[str, str]]:
        assert folder.name == "base" and len(wanted["general_mmlu"]) == 40
        found = Wording("What is it?", "Shots. What is it?", ("that", "this"), "this", 1)
        return {("general_mmlu", 3): found}, {"trace_fomc": "no data"}

    # What reads them loads lm-eval; tests/e2e/test_html_report.py does.
    monkeypatch.setattr("cl_bench.report.written._rereading", lambda data_root: read)
    data = Parsed(written(tmp_path, "small", texts=True)[0]).data()
    assert data["notes"] == ["`trace_fomc`: its words cannot be shown: no data."]
    documents = [d for task in data["experiments"][0]["tasks"] for d in task["documents"]]
    (worded,) = [d for d in documents if len(d) > 3]
    assert worded[:2] == ["general_mmlu", 3]
    numbers = [worded[2], worded[3], *worded[4]]
    assert [data["texts"][n] for n in numbers] == ["1: this", "What is it?", "that", "this"]


def test_documents_that_were_asked_otherwise_are_left_out(tmp_path: Path) -> None:
    folder = SMALL.write(tmp_path)
    (stage,) = (folder / "sft/seed-1").glob("stage-1*")
    records = read_records(stage / "predictions/trace_fomc.jsonl")
    records[4]["prompt_hash"] = "another"
    write_records(stage / "predictions/trace_fomc.jsonl", records)
    answer(stage, "trace_fomc", {})
    (experiment,) = Parsed(written(tmp_path, "small")[0]).data()["experiments"]
    (place,) = [i for i, task in enumerate(experiment["tasks"]) if task["name"] == "FOMC"]
    numbers = [document[1] for document in experiment["tasks"][place]["documents"]]
    missing = [n for n, a in zip(numbers, experiment["answers"][place][1], strict=True) if not a]
    assert missing == [4]


def test_rows_with_worked_examples_are_compared_with_the_base_model(tmp_path: Path) -> None:
    folder = SMALL.write(tmp_path)
    (stage,) = (folder / "sft/seed-1").glob("stage-1*")
    (opened,) = open_all(choose([str(folder)], tmp_path), [], False)
    row = InContextRow("ori, 2 shots", (stage,))
    (experiment,) = document_browser([replace(opened, in_context=[row])])["experiments"]
    run = experiment["runs"][-1]
    assert run["name"].startswith("ori, 2 shots, stage 1") and run["places"][0] == 0
    place = run["places"][1]
    assert experiment["places"][place] == "base with worked examples"
    for task, answers in zip(experiment["tasks"], experiment["answers"], strict=True):
        assert task["own"][-1] == 0 and answers[place] == answers[1] != answers[0]


def test_without_records_there_are_tables(tmp_path: Path) -> None:
    folder = SMALL.write(tmp_path)
    for inside in list(folder.rglob("predictions")):
        shutil.rmtree(inside)
    page = Parsed(written(tmp_path, "small")[0])
    assert "The records of single documents (" in page.texts["p"]
    assert [tag for tag, _ in page.elements].count("script") == 1


@pytest.mark.parametrize("words", [["--texts"], ["--format", "html", "--data-root", "x"]])
def test_options_that_would_do_nothing_are_refused(tmp_path: Path, words: list[str]) -> None:
    SMALL.write(tmp_path)
    assert run_command(["report", "small", *words, "--results", str(tmp_path)]) == 2


def test_one_table_alone(tmp_path: Path) -> None:
    SMALL.write(tmp_path)
    text, file = written(tmp_path, "small", table="lost")
    assert file.name == "report-lost.html"
    assert [attrs["data-name"] for tag, attrs in Parsed(text).elements if tag == "table"] == [
        "lost"
    ]

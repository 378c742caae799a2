"""The questions of documents that changed: as text, JSON and a page, and where they are not there.

Answers are put into the records of a real run: two documents of each task are forgotten or learned.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from cl_bench.store.seals import file_record, write_sealed
from tests.e2e.conftest import Bench
from tests.helpers.browser import MISSING, WHY, browser

STAGE = "sft/seed-1/stage-2-trace_numglue_ds"
HOSTILE = "</pre><script>alert(1)</script>\x1b[2J\u202e & <b>"
VISIBLE = "</pre><script>alert(1)</script>\\x1b[2J\\u202e & <b>"


def answer(place: Path, leaf: str, answers: dict[int, dict[str, Any]]) -> None:
    """Replace the answers of the first, second, ... documents as if they had been given."""
    file = place / "predictions" / f"{leaf}.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for number, given in answers.items():
        records[number] |= given
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    scores = json.loads((place / "scores.json").read_text())
    scores["files"][f"predictions/{leaf}.jsonl"] = file_record(file)
    write_sealed(place / "scores.json", {k: v for k, v in scores.items() if k != "sha256"})


@pytest.fixture
def changed(bench: Bench) -> Bench:
    """FOMC: one learned; PIQA: one forgotten and one learned."""
    bench.trained("--method", "sft")
    base, stage = bench.results / "base", bench.results / STAGE
    right, wrong = {"score": 1.0}, {"score": 0.0}
    answer(base, "trace_fomc", {1: {**wrong, "prediction": HOSTILE}})
    answer(stage, "trace_fomc", {1: {**right, "prediction": "文" * 70}})
    answer(base, "general_piqa", {0: {**right, "choice": 0}, 1: {**wrong, "choice": 0}})
    answer(stage, "general_piqa", {0: {**wrong, "choice": 1}, 1: {**right, "choice": 1}})
    return bench


def test_questions_choices_gold_and_answers(changed: Bench) -> None:
    out = changed.must("diff", "base", "sft/stage-2", "--show", "5")
    assert max(map(cell_len, out.splitlines())) <= 100
    assert "\x1b" not in out and "\u202e" not in out and "\\x1b[2J\\u202e" in out
    part = out[out.index("## piqa: forgotten (1 of 1)") :]
    document = first_document(changed, "general_piqa")
    lines = [line.strip() for line in part.splitlines()]
    assert f"general_piqa {document}" in lines
    assert f"question  Question: g{document}" in lines
    assert "choices   0: yes" in lines and "1: no" in lines
    assert f"gold      {document % 2}: {['yes', 'no'][document % 2]}" in lines
    assert "A (100)   0: yes" in lines and "B (0)     1: no" in lines
    learned = out[out.index("## trace_fomc: learned (1 of 1)") :]
    assert "question  Text " in learned and "文文文" in learned
    out = changed.must("diff", "base", "sft/stage-2", "--show", "5", "--which", "forgotten")
    assert "forgotten (1 of 1)" in out and "learned (1" not in out


def test_json_has_the_same(changed: Bench) -> None:
    found = json.loads(changed.must("diff", "base", "sft/stage-2", "--show", "5", "--json"))
    assert [(d["task"], d["what"]) for d in found["documents"]] == [
        ("trace_fomc", "learned"),
        ("piqa", "forgotten"),
        ("piqa", "learned"),
    ]
    fomc, piqa, _ = found["documents"]
    assert fomc["a"]["prediction"] == HOSTILE and fomc["question"].startswith("Text ")
    assert fomc["gold"] == "ABC"[fomc["doc_id"] % 3] and fomc["choices"] == []
    assert piqa["choices"] == ["yes", "no"] and piqa["a"]["choice"] == 0
    assert found["questions_not_there"] == {}
    few = json.loads(changed.must("diff", "base", "sft/stage-2", "--json"))
    assert "documents" not in few and few["tasks"]["piqa"]["forgotten"] == [
        ["general_piqa", piqa["doc_id"]]
    ]


class Page(HTMLParser):
    """Texts of `article`s, and what a page would load or run."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.articles: list[str] = []
        self.scripts = 0
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "input", "link", "img"):
            self.open.append(tag)
        self.scripts += tag == "script"
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "article":
            self.articles.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "article" in self.open:
            self.articles[-1] += data


def test_a_page_that_needs_no_other_file(changed: Bench) -> None:
    assert changed.must("diff", "base", "sft/stage-2", "--html", "lost.html") == "lost.html\n"
    page = Page(Path("lost.html").read_text())
    assert page.open == [] and page.links == [] and page.scripts == 1
    assert len(page.articles) == 3 and any(VISIBLE in text for text in page.articles)
    assert "yes" in page.articles[1] and "forgotten" in page.articles[1]
    code, _, err = changed.run("diff", "base", "sft/stage-2", "--html", "nowhere/lost.html")
    assert code == 2 and "nowhere is not a folder" in err
    code, _, err = changed.run("diff", "base", "sft/stage-2", "--html", "x.html", "--json")
    assert code == 2 and "--html, --json: one of them" in err


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_the_page_in_a_browser(changed: Bench) -> None:
    """What a model wrote does nothing, the filter does, and there is no error."""
    changed.must("diff", "base", "sft/stage-2", "--html", "lost.html")
    text = Path("lost.html").read_text()
    use = "what.value = 'learned'; words.value = '&LT;B'.replace('&LT;', '<');"
    script = f"<script>{use} what.dispatchEvent(new Event('input'));</script></body>"
    Path("used.html").write_text(text.replace("</body>", script))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command = ["chromium", *flags, "--user-data-dir=profile", "--dump-dom"]
    done = subprocess.run(
        [*command, Path("used.html").absolute().as_uri()], capture_output=True, text=True
    )
    assert "CONSOLE" not in done.stderr
    assert '<output id="count">1 of 3 documents</output>' in done.stdout
    assert done.stdout.count('hidden=""') == 2 and "alert(1)&lt;/script&gt;" in done.stdout


def test_where_the_data_is_not_there_or_another(changed: Bench) -> None:
    command = ("diff", "base", "sft/stage-2", "--show", "1", "--task", "trace_fomc")
    file = changed.root / "data" / "trace" / "FOMC" / "test.json"
    rows = json.loads(file.read_text())
    last = rows[first_document(changed, "trace_fomc", 1)]
    last["prompt"] = "Another text\nStance:"
    file.write_text(json.dumps(rows))
    out = " ".join(changed.must(*command).split())
    assert "trace_fomc: its questions cannot be shown: the data has other rows" in out
    assert "Another text" not in out and "gold" in out and "B (100)" in out
    shutil.rmtree(file.parent)
    out = " ".join(changed.must(*command).split())
    assert "trace_fomc: its questions cannot be shown:" in out and "FOMC" in out
    found = json.loads(changed.must(*command, "--json"))
    assert found["documents"][0]["question"] is None and found["questions_not_there"]


def test_another_prompt_than_the_recorded_one_is_not_shown(changed: Bench) -> None:
    """Without a checksum of all rows, as in old records, the prompt's own hash is left."""
    for place in (changed.results / "base", changed.results / STAGE):
        answer(place, "general_piqa", {0: {"prompt_hash": "0" * 64}})
    out = changed.must("diff", "base", "sft/stage-2", "--show", "9", "--task", "piqa")
    assert "1 of 2 documents have another prompt than was recorded" in " ".join(out.split())
    assert out.count("question  Question: g") == 1


def first_document(bench: Bench, leaf: str, number: int = 0) -> int:
    lines = (bench.results / "base" / "predictions" / f"{leaf}.jsonl").read_text().splitlines()
    return int(json.loads(lines[number])["doc_id"])


@pytest.mark.skipif(bool(MISSING), reason=WHY)
def test_the_page_filters_in_chromium(changed: Bench, tmp_path: Path) -> None:
    changed.must("diff", "base", "sft/stage-2", "--html", str(tmp_path / "lost.html"))
    shown = "return [...document.querySelectorAll('article')].filter((a) => !a.hidden).length"
    with browser() as window:
        for width in (400, 1600):
            window.open(tmp_path / "lost.html", width)
            assert window.run("return document.documentElement.scrollWidth <= window.innerWidth")
            assert window.run(shown) == 3
            window.choose("what", "forgotten")
            assert window.run(shown) == 1
            window.choose("what", "")
            window.choose("words", "alert(1)")
            assert window.run(shown) == 1 and not window.run(
                "return document.querySelectorAll('article script').length"
            )
        assert window.complaints() == []

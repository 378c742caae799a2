"""The HTML report in a real browser, from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cl_bench.store.folders import read_records
from tests.helpers.browser import MISSING, WHY, Browser, browser
from tests.helpers.invented_runs import Invented
from tests.report.test_html import NASTY, answer, written

pytestmark = pytest.mark.skipif(bool(MISSING), reason=WHY)
COLUMN = """
const table = document.querySelector(`table[data-name=${arguments[0]}]`);
return [...table.tBodies[0].rows].map((row) => row.cells[arguments[1]].textContent);
"""
CARDS = "return [...document.querySelectorAll('article')].map((card) => card.textContent)"


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three methods; the last stage of the first answered with what a page should not read."""
    results = tmp_path_factory.mktemp("html")
    made = Invented(name="fixed", keeps={}).write(results)
    (stage,) = (made / "sft/seed-1").glob("stage-3*")
    answer(stage, "trace_py150", dict.fromkeys(range(30), NASTY.replace("\ud800", "")))
    (made / "figure.svg").write_text(
        "<svg xmlns='http://www.w3.org/2000/svg' width='40' height='20'><rect width='9'/></svg>"
    )
    written(results, "fixed")
    return made


@pytest.mark.parametrize("width", [400, 1600])
def test_it_opens_sorts_and_filters(window: Browser, folder: Path, width: int) -> None:
    window.open(folder / "report.html", width)
    wide = "return document.documentElement.scrollWidth <= window.innerWidth"
    assert window.run(wide), "the page is wider than the window"
    assert window.run("return document.querySelector('img').naturalWidth") == 40

    heads = window.run(
        "return [...document.querySelectorAll('table[data-name=main] th[scope=col]')]"
        ".map((head) => head.textContent)"
    )
    place = heads.index("mmlu")
    values = window.run(COLUMN, "main", place)
    for order in (True, False):
        window.click("table[data-name=main] thead button", place)
        assert window.run(COLUMN, "main", place) == sorted(values, key=float, reverse=order)
    window.click("table[data-name=main] thead button", 0)
    assert window.run(COLUMN, "main", 0) == ["ewc", "fggm", "ori (base)", "sft"]

    window.choose("task", "")
    (stage,) = (folder / "sft/seed-1").glob("stage-3*")
    expected = 0
    for file in sorted((stage / "predictions").iterdir()):
        own = [*(folder / "sft/seed-1").glob(f"stage-*-{file.stem}"), folder / "base"][0]
        before = {r["doc_id"]: r["score"] for r in read_records(own / "predictions" / file.name)}
        expected += sum(r["score"] < before[r["doc_id"]] for r in read_records(file))
    count = "return document.getElementById('count').textContent"
    assert window.run(count).startswith(f"{expected} of ") and expected > 25
    assert len(window.run(CARDS)) == 25
    window.click("#more")
    cards = window.run(CARDS)
    assert len(cards) == min(expected, 125) and all("right then, wrong now" in c for c in cards)

    window.choose("what", "")
    window.choose("words", "onerror")
    cards = window.run(CARDS)
    assert len(cards) == 25 and window.run(count).startswith("30 of ")
    assert all("</script><script>alert(1)</script>" in card for card in cards)
    assert not window.run("return document.querySelectorAll('article img, article script').length")
    window.choose("words", "")
    window.choose("what", "better")
    window.choose("run", "2")
    window.choose("after", window.run("return document.getElementById('after').options[1].value"))
    assert all("wrong then, right now" in card for card in window.run(CARDS))
    assert window.complaints() == []


@pytest.mark.parametrize("width", [400, 1600])
def test_figures_are_drawn_as_large_as_they_are(
    window: Browser, tmp_path: Path, width: int
) -> None:
    """Not shrunk on a telephone, and the page itself is no wider than its window."""
    Invented(name="drawn", updates=3, keeps={}).write(tmp_path)
    written(tmp_path, "drawn", figures=True)
    window.open(tmp_path / "drawn/report.html", width)
    wait = (
        "return Promise.all([...document.images].map((image) => image.decode())).then(() => true)"
    )
    assert window.run(wait)
    sizes = window.run("return [...document.images].map((i) => [i.naturalWidth, i.width])")
    assert len(sizes) == 5 and all(own == shown > 400 for own, shown in sizes)
    assert window.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert window.complaints() == []


def test_a_link_opens_its_section(window: Browser, folder: Path) -> None:
    window.open(folder / "report.html")
    window.run("document.querySelector('.contents').open = true")
    link = "[...document.querySelectorAll('nav a')].find((a) => a.textContent === 'Provenance')"
    window.run(f"{link}.click()")
    window.run("return new Promise((done) => setTimeout(done, 50))")
    opened = "return document.querySelector('details:has(table[data-name=runs])').open"
    assert window.run(opened) and window.complaints() == []

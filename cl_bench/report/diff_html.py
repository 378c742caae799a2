"""`cl-bench diff --html`: one page that needs no other file, with a filter over its documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from cl_bench.report.diff import (
    DOCUMENTS,
    SCORES,
    Diff,
    documents_row,
    explained,
    scores_row,
    task_cell,
)
from cl_bench.report.diff_documents import answer_of, gold_of, score_of, visible
from cl_bench.report.html_page import escape, page
from cl_bench.results.compare import Pair, TaskDiff
from cl_bench.results.shown_documents import Changed, Shown

STYLE = """
:root { color-scheme: light dark; --line: #8886; --gold: #b58900; --a: #268bd2; --b: #d33682; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
article { border: 1px solid var(--line); border-radius: .4rem; padding: .2rem 1rem; }
article { margin: 1rem 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .3rem 0; font-size: .9rem; }
dl { display: grid; grid-template-columns: 6rem 1fr; gap: .2rem 1rem; }
dt { font-weight: 600; } dd { margin: 0; min-width: 0; }
.gold { color: var(--gold); } .a { color: var(--a); } .b { color: var(--b); }
.tools { display: flex; flex-wrap: wrap; gap: 1rem; position: sticky; top: 0; background: Canvas;
  padding: .6rem 0; border-bottom: 1px solid var(--line); }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } }
"""
SCRIPT = """
const task = document.getElementById('task'), what = document.getElementById('what');
const words = document.getElementById('words'), count = document.getElementById('count');
const documents = [...document.querySelectorAll('article')];
function filter() {
  const text = words.value.toLowerCase();
  let left = 0;
  for (const each of documents) {
    const shown = (!task.value || each.dataset.task === task.value)
      && (!what.value || each.dataset.what === what.value)
      && (!text || each.textContent.toLowerCase().includes(text));
    each.hidden = !shown;
    left += shown;
  }
  count.textContent = `${left} of ${documents.length} documents`;
}
for (const each of [task, what, words]) each.addEventListener('input', filter);
filter();
"""


def diff_html(diff: Diff) -> str:
    """The page, escaped."""
    return page("cl-bench diff", _body(diff), STYLE, SCRIPT if diff.shown.changed else "")


def _body(diff: Diff) -> Iterator[str]:
    yield "<h1>What was forgotten, what was learned</h1>"
    for name, place in (("A", diff.first), ("B", diff.second)):
        yield f"<p>{name}: <code>{escape(str(place.path))}</code></p>"
    yield from _tables(diff.rows)
    for line in explained(diff):
        yield f"<p>{escape(line)}</p>"
    for only in diff.tasks if len(diff.tasks) == 1 else ():
        if only.members:
            yield f"<h2>{escape(only.task)}: members</h2>"
            yield from _tables(list(only.members.values()))
    if diff.shown.changed:
        yield from _documents(diff.shown)


def _tables(rows: Sequence[TaskDiff]) -> Iterator[str]:
    titles = ("task", *SCORES, *DOCUMENTS)
    yield '<div class="wide"><table>\n<thead><tr>'
    yield "".join(f"<th>{escape(title)}</th>" for title in titles) + "</tr></thead>\n<tbody>"
    for row in rows:
        cells = [task_cell(row), *scores_row(row), *documents_row(row)]
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
    yield "</tbody>\n</table></div>"


def _documents(shown: Shown) -> Iterator[str]:
    yield "<h2>Documents</h2>"
    for changed in shown.changed:
        if len(changed.pairs) < changed.total:
            yield (
                f"<p>{escape(changed.task)}: {len(changed.pairs)} of {changed.total} that "
                f"{changed.word if changed.graded else f'were {changed.word}'}.</p>"
            )
    for leaf, reason in shown.not_there.items():
        yield f"<p>{escape(f'{leaf}: its questions cannot be shown: {reason}.')}</p>"
    tasks = dict.fromkeys(changed.task for changed in shown.changed)
    words = dict.fromkeys(changed.word for changed in shown.changed)
    yield '<div class="tools">'
    yield _select("task", "Task", tasks)
    yield _select("what", "What", words)
    yield '<label>Text <input id="words" type="search"></label><output id="count"></output></div>'
    for changed in shown.changed:
        for pair in changed.pairs:
            yield from _document(changed, pair, shown)


def _select(name: str, label: str, values: Iterable[str]) -> str:
    every = [("", "all"), *((value, value) for value in values)]
    options = "".join(f'<option value="{escape(v)}">{escape(text)}</option>' for v, text in every)
    return f'<label>{label} <select id="{name}">{options}</select></label>'


def _document(changed: Changed, pair: Pair, shown: Shown) -> Iterator[str]:
    leaf, document = pair.key
    wording = shown.wordings.get(pair.key)
    yield f'<article data-task="{escape(changed.task)}" data-what="{escape(changed.word)}">'
    yield f"<h3>{escape(leaf)} {document}: {escape(changed.word)}</h3>\n<dl>"
    if wording is not None:
        yield _item("question", wording.question)
        if wording.choices:
            yield _choices(pair, shown)
    yield _item("gold", gold_of(pair, wording), "gold")
    for name, record in (("A", pair.before), ("B", pair.after)):
        yield _item(f"{name} ({score_of(record)})", answer_of(record, wording), name.lower())
    yield "</dl></article>"


def _choices(pair: Pair, shown: Shown) -> str:
    """Each with the marks of who took it."""
    wording = shown.wordings[pair.key]
    lines = []
    for number, choice in enumerate(wording.choices):
        marks = [
            f' <b class="{name.lower()}">{name}</b>'
            for name, mine in (
                ("gold", wording.gold_choice),
                ("A", pair.before.get("choice")),
                ("B", pair.after.get("choice")),
            )
            if mine == number
        ]
        lines.append(f"{number}: {_text(choice)}{''.join(marks)}")
    return f"<dt>choices</dt><dd><pre>{chr(10).join(lines)}</pre></dd>"


def _item(name: str, text: str, mark: str = "") -> str:
    return f'<dt class="{mark}">{escape(name)}</dt><dd><pre>{_text(text)}</pre></dd>'


def _text(text: str) -> str:
    """Escaped, and without what would turn the writing of all that follows."""
    return escape(visible(text))

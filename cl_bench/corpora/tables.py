"""What `cl-bench data` prints: rich tables, and an audit's findings in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from cl_bench.corpora.archive import Imported
from cl_bench.corpora.audit import TaskAudit
from cl_bench.corpora.download import Outcome
from cl_bench.corpora.oddities import oddity_findings
from cl_bench.corpora.registry import Licence
from cl_bench.corpora.verify import Verification


def licence_table(licences: Sequence[Licence]) -> Table:
    """Each set's terms, before anything is downloaded."""
    table = _table("Licences (of the original authors)", "set", "origin", "terms")
    for one in licences:
        terms = f"{one.terms} (non-commercial)" if one.non_commercial else one.terms
        _add(table, one.dataset, one.origin, terms)
    return table


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """What `data get` did."""
    table = _table(None, "file", "done", "bytes>", "checked by")
    for one in outcomes:
        _add(table, one.file, one.action, f"{one.size:,}", one.checked_by)
    return table


def import_table(imported: Sequence[Imported]) -> Table:
    """What `data import` took from the archive."""
    table = _table(None, "file", "rows>", "recognised as")
    for one in imported:
        _add(table, one.file, f"{one.rows:,}", one.recognised)
    return table


def verification_tables(result: Verification) -> list[Table]:
    """The variant of every task, and the verdict on every file."""
    files = _table("Files", "file", "rows>", "bytes>", "verdict", "variant")
    for one in result.files:
        rows = "" if one.rows is None else f"{one.rows:,}"
        _add(files, one.file, rows, f"{one.size:,}", one.verdict, "/".join(one.variants))
    if not result.tasks:
        return [files]
    tasks = _table("TRACE tasks", "task", "variant")
    for task, variant in result.tasks.items():
        _add(tasks, task, variant)
    return [files, tasks]


def audit_tables(audits: Sequence[TaskAudit]) -> list[Table]:
    """Repetition and leakage; labels; lengths; and truncation where it was measured."""
    tables = [_repetition_table(audits), _label_table(audits), _length_table(audits)]
    return [*tables, _truncation_table(audits)] if any(a.truncation for a in audits) else tables


def _repetition_table(audits: Sequence[TaskAudit]) -> Table:
    headings = ("task", "train>", "distinct>", "conflicting>", "test>", "of it in train>")
    table = _table("Repetition and leakage (prompts)", *headings, "eval in train>", "eval = test")
    for one in audits:
        train, test = one.repetition["train"], one.repetition["test"]
        leaks = {(overlap.part, overlap.of): overlap for overlap in one.overlaps}
        evaluation = leaks.get(("eval", "train"))
        test_leak = leaks["test", "train"]
        _add(
            table,
            one.task,
            f"{train.rows:,}",
            f"{train.distinct_prompts:,}",
            str(one.conflicts["train"].prompts),
            f"{test.rows:,}",
            f"{test_leak.prompts} ({test_leak.rows} rows, {test_leak.share:.1%})",
            "" if evaluation is None else str(evaluation.prompts),
            "yes" if one.eval_is_test else "no",
        )
    return table


def _label_table(audits: Sequence[TaskAudit]) -> Table:
    table = _table("Answers as labels (test)", "task", "different>", "majority>", "most frequent")
    for one in audits:
        if "test" not in one.labels:
            _add(table, one.task, "", "", "texts")
            continue
        labels = one.labels["test"]
        top = [f"{label!r} {share:.1%}" for label, share in list(labels.shares.items())[:4]]
        _add(
            table, one.task, f"{labels.distinct:,}", f"{labels.majority_share:.1%}", ", ".join(top)
        )
    return table


def _length_table(audits: Sequence[TaskAudit]) -> Table:
    unit = audits[0].length_unit if audits else "characters"
    title = f"Lengths in {unit}: p50 / p90 / p95 / p99 / max"
    table = _table(title, "task", "split", "prompt>", "answer>")
    for one in audits:
        for split in one.repetition:
            prompt, answer = one.prompt_lengths[split], one.answer_lengths[split]
            cells = [" / ".join(f"{n:,}" for n in side.values()) for side in (prompt, answer)]
            _add(table, one.task if split == "train" else "", split, *cells)
    return table


def _truncation_table(audits: Sequence[TaskAudit]) -> Table:
    headings = ("task", "split", "prompts cut>", "lose the head>", "lose the middle>")
    table = _table("Truncation", *headings, "median tokens lost>", "answers over the limit>")
    for one in audits:
        for split, cut in one.truncation.items():
            _add(
                table,
                one.task if split == "train" else "",
                split,
                f"{cut.prompts:,} ({cut.prompts_share:.1%})",
                f"{cut.head:,}",
                f"{cut.middle:,}",
                f"{cut.prompt_tokens_lost:,}",
                f"{cut.answers:,} ({cut.answers_share:.1%})",
            )
    return table


def findings(audit: TaskAudit) -> list[str]:
    """What a reader of this task's score has to know, in sentences; none if nothing is wrong."""
    found = []
    train = audit.repetition["train"]
    if train.duplicate_rows:
        found.append(
            f"train has {train.distinct_prompts:,} distinct prompts in {train.rows:,} rows: an "
            f"epoch shows each {train.rows / train.distinct_prompts:.1f} times on average, the "
            f"commonest {train.most_repeated} times"
        )
    for overlap in audit.overlaps:
        rows = f"{overlap.rows} of {audit.repetition[overlap.part].rows} {overlap.part} rows"
        if overlap.prompts and not (overlap.of == "eval" and audit.eval_is_test):
            found.append(
                f"distinct {overlap.part} prompts that {overlap.of} has too: {overlap.prompts} "
                f"({rows}, {overlap.share:.1%}), with the same answer: {overlap.same_answer}"
            )
    if audit.eval_is_test:
        found.append("eval and test are the same examples: what is chosen on eval fits test")
    found += [
        f"{split} prompts with more than one answer: {conflict.prompts} ({conflict.rows} rows), so "
        f"that at most {conflict.ceiling:.1%} of {split} can be right"
        for split, conflict in audit.conflicts.items()
        if conflict.prompts
    ]
    for split, odd in audit.oddities.items():
        found += oddity_findings(split, audit.repetition[split].rows, odd)
    return found + _truncation_findings(audit)


def _truncation_findings(audit: TaskAudit) -> list[str]:
    found = []
    for split, cut in audit.truncation.items():
        if cut.head:
            found.append(
                f"{cut.head / audit.repetition[split].rows:.1%} of {split} prompts lose their "
                "beginning, and with it the instruction where there is one"
            )
        if cut.middle:
            share = cut.middle / audit.repetition[split].rows
            found.append(f"{share:.1%} of {split} prompts lose their middle")
        if cut.answers:
            what = "answers are cut" if split == "train" else "answers are too long to be generated"
            lost = f"{cut.answers:,} of {audit.repetition[split].rows:,} lose their end"
            found.append(f"{cut.answers_share:.1%} of {split} {what} ({lost})")
    return found


def _add(table: Table, *cells: str) -> None:
    """A row whose cells may hold brackets, which rich would take for markup."""
    table.add_row(*(escape(cell) for cell in cells))


def _table(title: str | None, *headings: str) -> Table:
    """A table; headings that end in `>` are of columns of numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in headings:
        right = heading.endswith(">")
        table.add_column(heading.rstrip(">"), justify="right" if right else "left", overflow="fold")
    return table

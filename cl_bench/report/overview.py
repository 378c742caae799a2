"""`cl-bench report`: reads experiments, groups them, and says what a report consists of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cl_bench.data.tasks import canonical_name
from cl_bench.report.cells import short
from cl_bench.report.document import Block, Bullets, Heading, Paragraph, Table
from cl_bench.report.first_screen import GroupView, Hidden, first_screen, lost_order, methods_order
from cl_bench.report.full import MIXED, about_lines, full_blocks, model_name
from cl_bench.report.main_table import lost_table, main_table, tasks_table
from cl_bench.report.states import states
from cl_bench.report.tables import code
from cl_bench.results.groups import Chosen, Group, Opened, group, open_all
from cl_bench.results.same_documents import left_out_line, other_data
from cl_bench.results.standings import Against, Score, Standings, baseline_of, standings

TASKS_ABOUT = (
    "Each task right after its own stage (the last one that teaches it) and after the last stage; "
    "forgotten and learned are documents. The verdicts are corrected over this table."
)
SEEDS = "; of several seeds standard deviation over seeds"
TERMS = {
    "OP final": "OP final: mean of the last row",
    "OP mean": "OP mean: mean of OP after every stage",
    "BWT": "BWT: last score minus that when just learned",
    "forgotten": "forgotten: best score minus last; documents that score less",
    "time": "time, memory: of training, in multiples of sft's",
}
"""By column, in the order in which they are said."""
SCORE_NAMES: dict[Score, str] = {"general": "General", "op": "OP final"}


@dataclass
class Overview:
    """A report that is read and compared, before it is laid out."""

    groups: list[Group]
    views: list[GroupView]
    found: list[Standings]
    faults: list[str] = field(default_factory=list)
    """Files that could not be read, with what to do."""

    @property
    def opened(self) -> list[Opened]:
        """Every experiment, in the order of the groups."""
        return [experiment for each in self.groups for experiment in each.experiments]

    def title(self) -> str:
        """The experiment's name, or how many there are."""
        names = [experiment.name for experiment in self.opened]
        return names[0] if len(names) == 1 else f"{len(names)} experiments: {', '.join(names)}"


def read_overview(
    chosen: Sequence[Chosen], baseline: str | None = None, every_file: bool = False
) -> Overview:
    """All that a first screen needs. Raises UserError for a baseline that is not there.

    Damaged files are in `faults`, once each; what they hold is left out. `every_file` as in
    `open_all`.
    """
    faults: list[str] = []
    groups = group(open_all(chosen, faults, every_file))
    label = baseline_of(groups, baseline) if groups else None
    found = [standings(each, label, faults, every_file) for each in groups]
    several = len(groups) > 1
    views = [_view(*pair, several) for pair in zip(groups, found, strict=True)]
    views = [view if i == 0 else _without(view, views[0]) for i, view in enumerate(views)]
    return Overview(groups, views, found, list(dict.fromkeys(faults)))


def _view(each: Group, found: Standings, several: bool) -> GroupView:
    main, lost = main_table(each, found), lost_table(found)
    first = each.first
    heading = ""
    if several:
        names = ", ".join(experiment.name for experiment in each.experiments)
        heading = f"{names}: {model_name(first.config['model']['path'])}"
    return GroupView(
        heading,
        list(_about(each)),
        main,
        methods_order(main, found.baseline),
        list(_remarks(each, found)),
        lost,
        lost_order(lost),
        smallest_difference(found),
    )


def _without(view: GroupView, first: GroupView) -> GroupView:
    """What is said of the first group already is not said again."""
    return replace(view, about=[text for text in view.about if text not in first.about])


def _about(each: Group) -> Iterator[str]:
    if each.apart:
        more = f", and {len(each.apart) - 2} more" if len(each.apart) > 2 else ""
        yield f"Kept apart from the first: {'; '.join(each.apart[:2])}{more}."
    first = each.first
    results = [result for _, result in each.methods()]
    yield from about_lines(first.config, first.base, results)


def _remarks(each: Group, found: Standings) -> Iterator[str]:
    """What must be known to read the main table."""
    for experiment in each.experiments:
        runs = [run for result in experiment.results for run in result.runs]
        if lines := list(other_data(experiment.folder, runs)):
            yield f"{MIXED} {'; '.join(lines)}."
    if unfinished := [text for m in found.methods if (text := _unfinished(m.label, m.result))]:
        yield f"Unfinished: {'; '.join(unfinished)}."
    for label, result in each.methods():
        if result.setting == "single":
            yield (
                f"{label}: every stage starts from the base model, so no model has seen all tasks: "
                "its number is `learned` (`--full`)."
            )
        if result.setting == "joint":
            yield f"{label}: all tasks in one stage: OP is the mean of its only row."
    counts = {m.label: len(m.result.runs) for m in found.methods}
    if len(set(counts.values())) > 1:
        most = max(counts.values())
        fewer = [f"{label} {count}" for label, count in counts.items() if count < most]
        yield f"Seeds: {most}, but {', '.join(fewer)}."
    if line := left_out_line({short(task): n for task, n in found.left_out.items()}):
        yield line
    if not found.paired:
        yield "Without `predictions/` differences are not paired: an upper bound of their error."
    if count := sum(_count_states(experiment) for experiment in each.experiments):
        yield f"{count} more to know of single stages and of the data: `--full`."


def _count_states(experiment: Opened) -> int:
    sequence = [canonical_name(stage["task"]) for stage in experiment.config["stages"]]
    lines = states(experiment.folder, experiment.base, experiment.results, sequence)
    return len(lines) + len(experiment.record.get("notes", []))


def _unfinished(label: str, result: object) -> str:
    from cl_bench.results.methods import MethodResult

    assert isinstance(result, MethodResult)
    done = result.done
    text = ""
    if not result.complete:
        text = f"{label} ({sum(done)} of {result.stages * len(done)} stages"
        text += f", diverged in {', '.join(result.failed)})" if result.failed else ")"
    return text


def smallest_difference(found: Standings) -> str:
    """One sentence: what these documents and seeds could have shown; nothing without methods."""
    parts = []
    for score, name in SCORE_NAMES.items():
        for against, who in (("base", "base"), ("baseline", found.baseline)):
            side: Against = "base" if against == "base" else "baseline"
            values = [100 * value for value in found.detectable(score, side)]
            if values and not (score == "op" and side == "base" and found.baseline):
                low, high = f"{min(values):.1f}", f"{max(values):.1f}"
                text = low if low == high else f"{low} to {high}"
                parts.append(f"{name} - {who} {text}")
    if not parts:
        return ""
    documents = sum(c.n for name in found.benchmarks if (c := found.base.cell(name)))
    tasks = sum(c.n for name in found.tasks if (c := found.base.cell(name)))
    most = max(len(method.result.runs) for method in found.methods)
    seeds = "1 seed" if most == 1 else f"{most} seeds"
    how = "" if found.paired else ", unpaired"
    return (
        f"Smallest true difference found 4 times in 5 ({documents} documents of General, {tasks} "
        f"of stage tasks, {seeds}{how}), in points: {', '.join(parts)}."
    )


def screen_blocks(overview: Overview, written: str) -> list[Block]:
    """The first screen; `written` is where everything is."""

    def closing(hidden: Hidden) -> list[Block]:
        return [*_hidden(hidden, written), *closing_blocks(overview)]

    return first_screen([Heading(overview.title(), 1)], overview.views, closing)


def overview_blocks(overview: Overview) -> list[Block]:
    """All rows of the first screen, and what was forgotten of stage tasks."""
    found: list[Block] = []
    for view, each in zip(overview.views, overview.found, strict=True):
        found += view.blocks()
        if (tasks := tasks_table(each)).rows:
            found += [Heading("Forgotten of stage tasks"), Paragraph(TASKS_ABOUT), tasks]
    return found


def all_blocks(overview: Overview) -> list[Block]:
    """These, all sections, and the terms at the end."""
    found: list[Block] = [Heading(overview.title(), 1), *overview_blocks(overview)]
    for experiment in overview.opened:
        found += full_blocks(experiment)
    return [*found, *closing_blocks(overview)]


def closing_blocks(overview: Overview) -> list[Block]:
    """What is damaged, and the terms."""
    found: list[Block] = []
    if overview.faults:
        found += [Heading("Damaged, and left out"), Bullets(overview.faults)]
    return [*found, Paragraph(" ".join(["**Terms.**", *terms(overview)]))]


def _hidden(hidden: Hidden, written: str) -> list[Block]:
    parts = []
    for count, one, many in (
        (hidden.methods, "method", "methods"),
        (hidden.changes, "benchmark", "benchmarks"),
        (hidden.groups, "group of experiments", "groups of experiments"),
    ):
        if count:
            parts.append(f"{count} {one if count == 1 else many}")
    if hidden.columns:
        parts.append(f"columns {', '.join(hidden.columns)}")
    what = f"Not shown: {', '.join(parts)}; matrices," if parts else "Matrices,"
    return [Paragraph(f"{what} probes, protocol, pairs: `--full` ({code(written)}).")]


def terms(overview: Overview) -> Iterator[str]:
    """Every word and sign of the tables, once."""
    heads = {column.title for view in overview.views for column in view.main.columns}
    count = sum(found.comparisons for found in overview.found)
    several = any(len(m.result.runs) > 1 for found in overview.found for m in found.methods)
    yield f"±: standard error over documents{SEEDS if several else ''}."
    if count:
        differences = ", ".join(sorted(head for head in heads if head.startswith("Δ")))
        yield f"{differences}: the score to the left minus theirs, by document."
        many = f"{count} differences" if len(overview.found) == 1 else "those of each table"
        yield f"?: not resolved at 5 % (Holm, {many}; benchmarks by themselves)."
        yield "perhaps: its own 95 % interval alone excludes 0."
    yield from (f"{words}." for head, words in TERMS.items() if head in heads)
    yield "-: not measured."


def tables_of(overview: Overview, full: bool) -> list[Table]:
    """All tables there are, for formats that print tables alone."""
    blocks = all_blocks(overview) if full else [b for v in overview.views for b in v.blocks()]
    return [block for block in blocks if isinstance(block, Table)]


def default_place(overview: Overview, results: Path) -> tuple[Path, str]:
    """Folder and stem of the files of a report: the experiment's own, or one for all of them."""
    opened = overview.opened
    if len(opened) == 1:
        return opened[0].folder, "report"
    names = [experiment.name for experiment in opened]
    stem = "+".join(names) if len(names) < 4 else f"{names[0]}+{len(names) - 1}-others"
    return results, f"report-{stem}"

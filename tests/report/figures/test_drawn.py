"""What each figure shows, read back from its axes and held against the files of the runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from scipy.stats import t

from cl_bench.report.curves import RunCurve
from cl_bench.report.figures import changes, front, style, sweep, within_stages
from cl_bench.report.figures.drawing import sources
from cl_bench.report.figures.files import save
from cl_bench.report.figures.kinds import KINDS
from cl_bench.report.figures.source import Estimate, Source
from cl_bench.report.figures.style import DASHES, LONGEST, MARKERS, MOST, OPEN, looks, plain, styled
from cl_bench.report.overview import read_overview
from cl_bench.results.groups import choose
from cl_bench.store.folders import read_records
from cl_bench.store.seals import read_scores
from tests.helpers.invented_runs import BENCHMARKS, TASKS, Invented

ALPHAS = {0.5: "fggm a", 0.7: "fggm b", 0.9: "fggm c"}
RATES = {1e-6: "sft low", 1e-5: "sft", 1e-4: "sft high"}
SETTINGS: dict[str, dict[str, Any]] = {
    **{
        label: {"method": [{"fggm": {"alpha": a}}], "train": {"lr": 1e-5}}
        for a, label in ALPHAS.items()
    },
    **{label: {"method": [{"sft": {}}], "train": {"lr": lr}} for lr, label in RATES.items()},
}
METHODS = {label: (0.05 * i, 0.5 - 0.03 * i) for i, label in enumerate(SETTINGS)} | {
    "ewc": (0.1, 0.4)
}
SEEDS = (1, 2, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = Invented(methods=METHODS, seeds=SEEDS, settings=SETTINGS, updates=9, probed=True)
    return made.write(tmp_path_factory.mktemp("drawn"))


def source(folder: Path) -> Source:
    (found,) = sources(read_overview(choose([str(folder)], folder.parent)))
    return found


@pytest.fixture(scope="module")
def figures(folder: Path) -> Callable[[str], Any]:
    """By name, each drawn once."""
    whole = source(folder)
    known = {}

    def figure(name: str) -> Any:
        if name not in known:
            (kind,) = [kind for kind in KINDS if kind.name == name]
            with styled():
                known[name] = kind.draw(kind.find(whole))
        return known[name]

    return figure


def lines(panel: Any) -> Iterator[tuple[list[float], list[float]]]:
    """Points of every line that is no bar and no level."""
    for line in panel.lines:
        if line.get_marker() in MARKERS:
            yield [float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]


def titles(figure: Any) -> list[str]:
    return [panel.get_title("left") for panel in figure.axes]


def names(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def stages(folder: Path, label: str, seed: int) -> list[dict[str, Any]]:
    places = sorted((folder / label / f"seed-{seed}").glob("stage-*"))
    return [read_scores(place) for place in places]


def op(scores: dict[str, Any]) -> float:
    return 100 * fmean(entry["score"] for entry in scores["trace"].values())


def general(scores: dict[str, Any]) -> float:
    return 100 * fmean(e["score"] for name, e in scores["general"].items() if name != "mean")


def lost(run: list[dict[str, Any]]) -> float:
    """The mean fall of every task but the last, from its best score since it was taught."""
    falls = []
    for place, task in enumerate(list(TASKS)[:-1]):
        scores = [after["trace"][task]["score"] for after in run[place:]]
        falls.append(100 * (max(scores[:-1]) - scores[-1]))
    return fmean(falls)


def over_seeds(folder: Path, label: str, of: Callable[[dict[str, Any]], float]) -> list[float]:
    return [of(stages(folder, label, seed)[-1]) for seed in SEEDS]


def bars(panel: Any) -> list[float]:
    """Lengths of all error bars, both ends of each."""
    return [
        max(abs(b - a) for a, b in zip(*segment, strict=True))
        for group in panel.containers
        for collection in group.lines[2]
        for segment in collection.get_segments()
    ]


def test_means_over_stages(figures: Callable[[str], Any], folder: Path) -> None:
    figure = figures("stages")
    for panel, of in zip(figure.axes, (op, general), strict=True):
        drawn = list(lines(panel))
        assert len(drawn) == len(METHODS)
        for label, (x, y) in zip(METHODS, drawn, strict=True):
            found = [[of(scores) for scores in stages(folder, label, seed)] for seed in SEEDS]
            assert [round(place) for place in x] == [1, 2, 3]
            assert y == pytest.approx([fmean(each) for each in zip(*found, strict=True)])
        spread = [stdev(v) for v in zip(*found, strict=True)]
        assert bars(panel)[-3:] == pytest.approx([2 * each for each in spread])
        assert len({x[0] for x, _ in drawn}) == len(METHODS), "no bar hides another"
    base = read_scores(folder / "base")
    (level,) = [line for line in figure.axes[1].lines if line.get_label() == "_child0"]
    assert list(level.get_ydata()) == pytest.approx([general(base)] * 2)
    assert names(figure) == [*METHODS, "base model"]


def test_a_matrix_has_its_numbers_and_marks_what_is_open(
    figures: Callable[[str], Any], folder: Path
) -> None:
    figure = figures("matrix")
    panel = figure.axes[0]
    label = panel.get_title("left")
    found = [stages(folder, label, seed) for seed in SEEDS]
    expected = {}
    base = read_scores(folder / "base")
    for row, places in enumerate([[base] * 3, *zip(*found, strict=True)]):
        for column, task in enumerate(TASKS):
            cells = [scores["trace"].get(task) for scores in places]
            if None not in cells:
                expected[column + 0.5, row + 0.5] = 100 * fmean(c["score"] for c in cells if c)
        expected[3.5, row + 0.5] = fmean(map(general, places))
    shown = {text.get_position(): text.get_text() for text in panel.texts}
    assert shown == {place: f"{value:.1f}" for place, value in expected.items()}
    hatched = [patch.get_xy() for patch in panel.patches if patch.get_hatch() == OPEN]
    assert sorted(hatched) == [(1, 1), (2, 1), (2, 2)], "tasks before their stage"
    framed = [patch for patch in panel.patches if not patch.get_hatch()]
    assert [tuple(int(v) for v in patch.get_xy()) for patch in framed] == [(0, 1), (1, 2), (2, 3)]
    assert panel.get_yticklabels()[0].get_text() == "base"


def test_learning_against_forgetting_has_the_line_of_rates(
    figures: Callable[[str], Any], folder: Path
) -> None:
    kept, forgotten = figures("front").axes
    (across, up), *others = list(lines(kept))
    assert across == pytest.approx([fmean(over_seeds(folder, r, op)) for r in RATES.values()])
    assert up == pytest.approx([fmean(over_seeds(folder, r, general)) for r in RATES.values()])
    assert [text.get_text() for text in kept.texts] == ["1e-06", "1e-05", "0.0001"]
    rest = [label for label in METHODS if label not in RATES.values()]
    assert [[*x, *y] for x, y in others] == [
        pytest.approx([fmean(over_seeds(folder, one, of)) for of in (op, general)]) for one in rest
    ]
    values = over_seeds(folder, "ewc", general)
    half = t.ppf(0.975, 2) * stdev(values) / 3**0.5
    assert bars(kept)[-1] == pytest.approx(2 * half), "a 95 % interval over seeds"
    assert names(figures("front")) == ["sft, by lr", *rest, "General of the base model"]
    assert forgotten.get_ylim()[0] > forgotten.get_ylim()[1], "better is up"
    ((_, falls), *_) = lines(forgotten)
    found = [fmean(lost(stages(folder, rate, seed)) for seed in SEEDS) for rate in RATES.values()]
    assert falls == pytest.approx(found)


def test_the_line_is_that_of_most_rates(tmp_path: Path) -> None:
    settings = {
        f"{epochs} {lr}": {"method": [{"sft": {}}], "train": {"lr": lr}, "epochs": epochs}
        for epochs, rates in ((1, (1e-6, 1e-5)), (2, (1e-6, 1e-5, 1e-4)), (3, (1e-6,)))
        for lr in rates
    }
    made = Invented(methods=dict.fromkeys(settings, (0.1, 0.4)), settings=settings, keeps={})
    found = front.find(source(made.write(tmp_path)))
    assert found is not None and found.rates == [
        *((1e-6, "2 1e-06"), (1e-5, "2 1e-05"), (1e-4, "2 0.0001"))
    ]


def test_without_other_rates_there_is_no_line(tmp_path: Path) -> None:
    made = source(Invented().write(tmp_path))
    (kind,) = [kind for kind in KINDS if kind.name == "front"]
    with styled():
        figure = kind.draw(kind.find(made))
    assert names(figure) == ["sft", "ewc", "fggm", "General of the base model"]
    assert all(len(x) == 1 for x, _ in lines(figure.axes[0])) and not figure.axes[0].texts
    assert not [kind for kind in KINDS if kind.name == "sweep" and kind.find(made)]


def test_sweeps(figures: Callable[[str], Any], folder: Path) -> None:
    figure = figures("sweep")
    labels = [panel.get_xlabel() for panel in figure.axes]
    assert labels == ["alpha"] * 3 + ["lr"] * 3
    for row, members in ((figure.axes[:3], ALPHAS), (figure.axes[3:], RATES)):
        for panel, of in ((row[0], op), (row[2], general)):
            ((x, y),) = lines(panel)
            assert x == list(members)
            assert y == pytest.approx([fmean(over_seeds(folder, m, of)) for m in members.values()])
    assert [p.get_xscale() for p in figure.axes] == ["linear"] * 3 + ["log"] * 3
    assert names(figure) == ["fggm", "sft"]
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["0.5", "0.7", "0.9"]


def test_ticks_of_many_values_stay_apart() -> None:
    line = [(i / 20, Estimate(float(i), 1.0)) for i in range(1, 20)]
    option = sweep.Option("alpha", {measure: {"fggm": line} for measure in sweep.MEASURES})
    with styled():
        figure = sweep.draw(sweep.Options([option], ""))
    assert len(figure.axes[0].get_xticks()) == 7 and figure.axes[0].get_xscale() == "linear"


def test_documents_forgotten_and_learned(figures: Callable[[str], Any], folder: Path) -> None:
    panel = figures("changes").axes[0]
    label = panel.get_title("left")
    counts: dict[str, list[float]] = {"lost": [], "gained": []}
    for name in BENCHMARKS:
        both = [0, 0]
        for seed in SEEDS:
            (last,) = (folder / label / f"seed-{seed}").glob("stage-3-*")
            file = f"predictions/general_{name}.jsonl"
            before, after = (
                [r["score"] for r in read_records(place / file)]
                for place in (folder / "base", last)
            )
            both[0] += sum(b > a for b, a in zip(before, after, strict=True))
            both[1] += sum(b < a for b, a in zip(before, after, strict=True))
        counts["lost"].append(both[0] / 3)
        counts["gained"].append(both[1] / 3)
    lost, gained = panel.containers
    sizes = list(BENCHMARKS.values())
    widths = [100 * c / n for c, n in zip(counts["lost"], sizes, strict=True)]
    assert [-bar.get_width() for bar in lost] == pytest.approx(widths)
    widths = [100 * c / n for c, n in zip(counts["gained"], sizes, strict=True)]
    assert [bar.get_width() for bar in gained] == pytest.approx(widths)
    assert [text.get_text() for text in panel.get_yticklabels()] == list(BENCHMARKS)
    assert lost[0].get_hatch() and not gained[0].get_hatch(), "told apart without colour"
    shown = {float(text.get_text()) for text in panel.texts}
    assert shown == {round(c, 1) for c in counts["lost"] + counts["gained"]}


def test_losses(figures: Callable[[str], Any]) -> None:
    figure = figures("loss")
    shown = [title for title in titles(figure) if title]
    assert shown == ["1 FOMC", "2 NumGLUE-ds", "3 Py150"]
    for panel in figure.axes[:3]:
        drawn = list(lines(panel))
        assert len(drawn) == len(METHODS)
        for order, (x, y) in enumerate(drawn):
            assert x == list(range(1, 10))
            assert y == pytest.approx([4 / n + order for n in range(1, 10)])


def test_divergence_against_the_loss_of_general(
    figures: Callable[[str], Any], folder: Path
) -> None:
    (panel,) = figures("kl").axes
    drawn = list(lines(panel))
    base = general(read_scores(folder / "base"))
    for label, (x, y) in zip(METHODS, drawn, strict=True):
        assert x == pytest.approx([0.1, 0.2, 0.3])
        assert y == pytest.approx([base - general(s) for s in stages(folder, label, 1)])
    assert [text.get_text() for text in panel.texts] == ["1", "2", "3"] * len(METHODS)


def test_scores_inside_stages() -> None:
    def point(step: int, **scores: float | None) -> dict[str, Any]:
        cells = {k: {"score": v, "stderr": 0.02, "n": 9} for k, v in scores.items()}
        return {"step": step, "epoch": 1, "trace": cells, "general": {}}

    first = (1, "a", [point(0, a=0.1), point(4, a=0.5)])
    second = (2, "b", [point(0, a=0.5, b=0.2), point(6, a=None, b=0.9)])
    with styled():
        figure = within_stages.draw(within_stages.Curves([RunCurve("sft", [first, second])], ""))
    assert titles(figure) == ["a", "b"]
    ((x, y),) = lines(figure.axes[0])
    assert x == [0, 4, 4, 10] and y[:3] == pytest.approx([10, 50, 50]) and y[3] != y[3]
    (edge,) = [line for line in figure.axes[0].lines if list(line.get_xdata()) == [4, 4]]
    assert edge.get_color() == "#aaaaaa"
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


@pytest.mark.parametrize("name", ["stages", "front", "sweep", "loss", "kl"])
def test_no_two_series_differ_in_colour_alone(figures: Callable[[str], Any], name: str) -> None:
    for panel in figures(name).axes:
        marks = [line.get_marker() for line in panel.lines if line.get_marker() in MARKERS]
        assert len(marks) == len(set(marks))


def test_looks_are_told_apart_in_grey() -> None:
    found = looks([f"method {i}" for i in range(MOST)])
    assert len({look.marker for look in found.values()}) == MOST
    neighbours = list(found.values())
    for one, other in pairwise(neighbours):
        assert one.dash != other.dash and one.colour != other.colour
    assert len(DASHES) > 4

    def grey(colour: str) -> float:
        red, green, blue = to_rgb(colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    assert all(grey(colour) < 0.6 for colour in style.COLOURS), "seen on white"
    shades = [grey(colour) for colour in style.SHADES]
    assert shades == sorted(shades, reverse=True) and shades[0] - shades[-1] > 0.75


def test_no_default_look_is_left(figures: Callable[[str], Any]) -> None:
    """Not the library's colours, nor boxes around legends and panels."""
    ours = {to_rgb(c) for c in (*style.COLOURS, style.GREY, "#aaaaaa")}
    for name in ("stages", "front", "sweep", "loss", "kl"):
        figure = figures(name)
        assert not figure.legends[0].get_frame_on()
        for panel in figure.axes:
            assert {to_rgb(line.get_color()) for line in panel.lines} <= ours
            assert not panel.spines["top"].get_visible()


def test_any_label_can_be_drawn(tmp_path: Path) -> None:
    with styled():
        data = changes.Bars(
            [(r"$\frac{_^$ <&> \x00" + "\x00日" * 20, [changes.Bar("_a$", 4, 1, 2)])], ""
        )
        figure = changes.draw(data)
        save(figure, tmp_path / "any.svg")
    assert "$\\frac{_^$ &lt;&amp;&gt; " in (tmp_path / "any.svg").read_text(), "no formula"
    assert len(titles(figure)[0]) == LONGEST and "\x00" not in titles(figure)[0]
    assert plain("_hidden") == " _hidden", "legends leave out what begins with one"

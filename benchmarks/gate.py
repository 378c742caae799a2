"""How often `cl-bench gate` errs and what it finds, on records of real documents.

    python benchmarks/gate.py RECORDS.json [--task general_piqa] [--new "noise 30"] [--draws 1000]
        [--kept CELLS.json] [--real "noise 120"]

RECORDS.json is what `benchmarks/gate_records.py` writes. In every draw the two sides of each
document are swapped or not, at random, and documents come in a random order: nothing dropped.
Drops are planted in NEW by turning answers wrong that are right on both sides, each with the same
chance. Where NEW itself has dropped (`--real`), documents are drawn with replacement instead, and
the margin is the one beyond which the gate says that it sees such a drop. The gate decides as it
does for model folders, with looks after every tenth of the documents. Tables in per cent. What is
kept in CELLS.json is not drawn again: ended at any time, it goes on there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import ndtri

from cl_bench.gate.changes import Measured
from cl_bench.gate.verdicts import ALPHA, Sizes, judge, overall, reach, watched
from cl_bench.report.tables import Column, table
from cl_bench.scores.paired_changes import RightOrWrong

Pairs = npt.NDArray[np.int64]
"""Right (1) or wrong (0) before and after, [documents, 2]."""
LOOKS = 10
ITEMS, THRESHOLD = 40, 0.05
"""The rule of thumb that the gate is compared with."""


@dataclass
class Drawn:
    """Capabilities of right or wrong documents, looked at after equal parts of them."""

    pairs: Mapping[str, Pairs]
    looks: int

    @property
    def rounds(self) -> Sequence[Mapping[str, Sizes]]:
        """Documents by look."""
        return [
            {name: {name: ceil(len(own) * look / self.looks)} for name, own in self.pairs.items()}
            for look in range(1, self.looks + 1)
        ]

    def measured(self, capabilities: Sequence[str], look: int) -> dict[str, Measured]:
        """The first of them."""
        return {name: self._measured(name, look) for name in capabilities}

    def _measured(self, capability: str, look: int) -> Measured:
        n = self.rounds[look][capability][capability]
        changes = self.pairs[capability][:n] @ (-1, 1)
        counts = int((changes < 0).sum()), int((changes > 0).sum())
        return Measured.of({capability: RightOrWrong(*counts, n)})


def draw(pairs: Pairs, drop: float, generator: np.random.Generator) -> Pairs:
    """Swapped and shuffled, with a drop planted on the new side."""
    found = generator.permutation(pairs)
    swapped = generator.random(len(found)) < 0.5
    found[swapped] = found[swapped][:, ::-1]
    both = found.all(axis=1)
    found[both & (generator.random(len(found)) < drop / pairs.all(axis=1).mean()), 1] = 0
    return found


@dataclass(frozen=True)
class Outcome:
    """Of many draws."""

    fails: float
    passes: float
    documents: float
    """Mean share of all."""


def gates(pairs: Pairs, parts: int, margin: float, drops: Sequence[float], draws: int) -> Outcome:
    """`parts`: capabilities that the documents are dealt to, each with its own planted drop."""
    generator = np.random.default_rng(1)
    verdicts, taken = [], []
    for _ in range(draws):
        whole = generator.permutation(pairs)
        dealt = {
            f"part {i}": draw(whole[i::parts], drop, generator) for i, drop in enumerate(drops)
        }
        found = judge(Drawn(dealt, LOOKS), margin)
        verdicts.append(overall(found))
        taken.append(sum(each.n for each in found[:parts]) / len(pairs))
    return Outcome(
        verdicts.count("fail") / draws,
        verdicts.count("pass") / draws,
        float(np.mean(taken)),
    )


def real(pairs: Pairs, draws: int) -> tuple[float, Outcome]:
    """The margin beyond which the gate says it sees the drop that there is, and what it finds."""
    drop = float(pairs[:, 0].mean() - pairs[:, 1].mean())
    changes = pairs @ (-1, 1)
    now = Measured.of(
        {"all": RightOrWrong(int((changes < 0).sum()), int((changes > 0).sum()), len(pairs))}
    )
    one = Drawn({"all": pairs}, LOOKS)
    boundaries = watched(one.rounds)["all"].boundaries

    def short(margin: float) -> float:
        sees, _ = reach(now, boundaries, LOOKS - 1, margin, ALPHA)
        assert sees is not None
        return sees - drop

    margin = float(brentq(short, 0.0, drop, xtol=1e-5))
    generator = np.random.default_rng(1)
    findings = [
        judge(Drawn({"all": generator.choice(pairs, len(pairs))}, LOOKS), margin)[0]
        for _ in range(draws)
    ]
    verdicts = [each.verdict for each in findings]
    taken = float(np.mean([each.n for each in findings])) / len(pairs)
    return margin, Outcome(verdicts.count("fail") / draws, verdicts.count("pass") / draws, taken)


def announced(pairs: Pairs, parts: int, margin: float, looks: int) -> float:
    """The drop that the gate says it sees, from all documents where nothing dropped."""
    n = len(pairs) // parts
    half = round((pairs[:, 0] != pairs[:, 1]).mean() * n / 2)  # as many learned as forgotten
    rounds = Drawn({f"part {i}": pairs[i::parts] for i in range(parts)}, looks).rounds
    states = watched(rounds)
    now = Measured.of({"all": RightOrWrong(half, half, n)})
    boundaries = states["part 0"].boundaries
    sees, _ = reach(now, boundaries, looks - 1, margin, ALPHA / len(states))
    assert sees is not None
    return sees


@dataclass
class Kept:
    """Outcomes on disk, by what they are of."""

    file: Path | None
    pairs: Pairs
    name: str
    draws: int

    def gates(self, parts: int, margin: float, drops: Sequence[float]) -> Outcome:
        """As the function, unless it is known."""
        key = (
            f"{self.name}, {self.draws} draws, {parts}, {margin:g}, {[round(d, 6) for d in drops]}"
        )
        known = {}
        if self.file is not None and self.file.is_file():
            known = json.loads(self.file.read_text())
        if key not in known:
            known[key] = asdict(gates(self.pairs, parts, margin, drops, self.draws))
            if self.file is not None:
                self.file.write_text(json.dumps(known, indent=1))
        return Outcome(**known[key])


def rules(pairs: Pairs, drop: float, draws: int) -> tuple[float, float]:
    """How often a threshold on few items, and an unpaired test on all, call it a drop."""
    generator = np.random.default_rng(1)
    threshold = unpaired = 0
    for _ in range(draws):
        found = draw(pairs, drop, generator)
        few = found[:ITEMS].mean(axis=0)
        threshold += bool(few[0] - few[1] >= THRESHOLD - 1e-9)
        before, after = found.mean(axis=0)
        error = sqrt((before * (1 - before) + after * (1 - after)) / len(found))
        unpaired += bool(before - after > ndtri(0.95) * error)
    return threshold / draws, unpaired / draws


def points(value: float) -> str:
    """With one digit."""
    return f"{100 * value:.1f}"


def paired(records: Mapping[str, Any], task: str, new: str) -> Pairs:
    """The documents that both have."""
    sides = [records[name][task] for name in ("base", new)]
    keys = [(leaf, i) for leaf in sides[0] for i in sides[0][leaf] if i in sides[1].get(leaf, {})]
    return np.array([[side[leaf][i] for side in sides] for leaf, i in keys], dtype=np.int64)


def said(new: str, pairs: Pairs) -> str:
    """How the two sides differ."""
    turned = (pairs[:, 0] != pairs[:, 1]).mean()
    before, after = (points(value) for value in pairs.mean(axis=0))
    return (
        f"{len(pairs)} documents: base {before}, {new} {after}; {points(turned)} % of them change."
    )


def main() -> None:
    """The tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--task", default="general_piqa")
    parser.add_argument("--new", default="noise 30")
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--margin", type=float, nargs="*", default=[3.0, 4.0, 5.0])
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--real", nargs="*", default=[], help="of NEW with a drop of its own")
    given = parser.parse_args()
    records = json.loads(given.file.read_text())
    pairs = paired(records, given.task, given.new)
    print(said(given.new, pairs), f"{given.draws} draws\n")
    kept = Kept(given.kept, pairs, f"{given.task}, {given.new}", given.draws)
    columns = ["capabilities", "margin", "planted", "fail", "pass", "documents"]
    rows = []
    for parts in (1, 3):
        for margin in (value / 100 for value in given.margin):
            sees = announced(pairs, parts, margin, LOOKS)
            # The drop that is announced to be seen 4 times in 5 is planted in one capability.
            for what, drop in (("none", 0.0), ("the margin", margin), ("what it sees", sees)):
                drops = [drop] + [drop if what == "the margin" else 0.0] * (parts - 1)
                found = kept.gates(parts, margin, drops)
                rows.append(
                    [
                        str(parts),
                        points(margin),
                        what if not drop else f"{what}: {points(drop)}",
                        points(found.fails),
                        points(found.passes),
                        points(found.documents),
                    ]
                )
    print("\n".join(table([Column(title) for title in columns], rows)), "\n")
    rows = []
    for drop in (0.0, 0.02, 0.04, 0.06, 0.08):
        threshold, unpaired = rules(pairs, drop, given.draws)
        own = [kept.gates(1, margin / 100, [drop]) for margin in given.margin]
        rows.append(
            [points(drop), points(threshold), points(unpaired)]
            + [f"{points(each.fails)} / {points(each.passes)}" for each in own]
        )
    titles = [
        "planted",
        f"{100 * THRESHOLD:.0f} points on {ITEMS}",
        "unpaired, all",
        *(f"gate {margin:g}: fail / pass" for margin in given.margin),
    ]
    print("\n".join(table([Column(title) for title in titles], rows)))
    for name in given.real:
        pairs = paired(records, given.task, name)
        margin, found = real(pairs, given.draws)
        print(
            f"\n{said(name, pairs)} Margin {100 * margin:.2f}: fail {points(found.fails)}, pass "
            f"{points(found.passes)}, documents {points(found.documents)}"
        )


if __name__ == "__main__":
    main()

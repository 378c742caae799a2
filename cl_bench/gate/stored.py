"""The gate on two stages whose documents are scored already: one look at all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cl_bench.errors import UserError
from cl_bench.gate.changes import Measured
from cl_bench.gate.gated import Gated, Lost, check_margin
from cl_bench.gate.verdicts import Sizes, judge
from cl_bench.results.compare import TaskDiff, compare_places
from cl_bench.results.places import Place
from cl_bench.results.same_documents import made_of

SAME = ("protocol", "harness", "harness_version", "task_version", "shots")
"""Of how a benchmark was measured: what makes scores of other kinds."""


@dataclass(frozen=True)
class StoredDocuments:
    """All documents of both stages, at the only look."""

    diffs: Mapping[str, TaskDiff]

    @property
    def rounds(self) -> Sequence[Mapping[str, Sizes]]:
        """One."""
        return [
            {
                name: {member: stratum.n for member, stratum in diff.strata.items()}
                for name, diff in self.diffs.items()
            }
        ]

    def measured(self, capabilities: Sequence[str], look: int) -> dict[str, Measured]:
        """As `cl-bench diff` compares them."""
        return {name: Measured.of(self.diffs[name].strata) for name in capabilities}


def gate_stages(old: Place, new: Place, tasks: Sequence[str], margin: float) -> Gated:
    """`tasks`: by default the benchmarks that both have, and without any all that both have.

    Raises UserError for a stage that is not scored to the end, for documents, metrics, definitions
    or harness versions that differ, for scores that are not measured, and for a margin that so many
    documents could never show.
    """
    if unscored := [line for place in (old, new) if (line := place.without_scores())]:
        raise UserError([f"{line}; a gate needs the scores" for line in unscored])
    shared = [name for name in old.benchmarks() if name in new.benchmarks()]
    diffs = {
        diff.task: diff for diff in compare_places(old, new, list(dict.fromkeys(tasks)) or shared)
    }
    faults = [fault for name in diffs for fault in _other_harness(name, old, new)]
    faults += [
        f"{diff.task}: not measured ({'; '.join(map(str, diff.not_measured.values()))})"
        for diff in diffs.values()
        if diff.comparison is None
    ]
    if faults:
        raise UserError(faults)
    documents = StoredDocuments(diffs)
    graded = {name: diff.graded or diff.of_all for name, diff in diffs.items()}
    check_margin(documents.rounds, graded, margin)
    lost = {
        name: [Lost(p.key, p.before["score"], p.after["score"]) for p in diff.forgotten]
        for name, diff in diffs.items()
    }
    gained = {name: len(diff.learned) for name, diff in diffs.items()}
    found = judge(documents, margin)
    return Gated(str(old.path), str(new.path), margin, found, lost, gained, _notes(old, new))


def _other_harness(name: str, old: Place, new: Place) -> list[str]:
    ours, theirs = (place.entry(name).get("measured") or {} for place in (old, new))
    return [
        f"{name}: not measured alike: {key} {ours[key]} in OLD, {theirs[key]} in NEW: score one of "
        "them again (`cl-bench eval`)"
        for key in SAME
        if key in ours and key in theirs and ours[key] != theirs[key]
    ]


def _notes(old: Place, new: Place) -> list[str]:
    ours, theirs = (made_of(place.path).get("tokenizer") for place in (old, new))
    return [OTHER_TOKENIZERS] if ours and theirs and ours != theirs else []


OTHER_TOKENIZERS = (
    "The two models have different tokenizers: they are asked the same texts, and log-likelihoods "
    "are summed over other tokens."
)

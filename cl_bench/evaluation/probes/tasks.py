"""The probes of whole tasks, with the base model's distributions kept for the models after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cl_bench.config.schema import TrainConfig
from cl_bench.evaluation.harness import TaskResult
from cl_bench.evaluation.probes import kl
from cl_bench.evaluation.probes.documents import probe_documents
from cl_bench.evaluation.probes.records import DocumentProbe
from cl_bench.evaluation.shared_prefix.among import distributions, divergences
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.store.folders import sha256_of


@dataclass(frozen=True)
class Sampled:
    """The text on which models are compared with the base model."""

    documents: Mapping[str, Sequence[int]]
    """Ids by leaf task."""
    positions: int
    """Of each text."""
    seed: int


@dataclass(frozen=True)
class Reference:
    """The folder with the base model's distributions, a file for each leaf task."""

    folder: Path
    sampled: Sampled | None = None
    """What to write there when the base model itself is probed; None: read what is there."""

    def depends_on(self) -> str:
        """A checksum of the sample, or that there is none of its own."""
        return "of base" if self.sampled is None else sha256_of(asdict(self.sampled))


def probe_tasks(
    lm: SharedPrefixLM,
    tasks: Mapping[str, Any],
    results: Mapping[str, TaskResult],
    train: TrainConfig | None,
    reference: Reference,
) -> dict[str, list[DocumentProbe]]:
    """The probes of scored leaf tasks. `train` as in `probe_documents`."""
    found = {}
    for leaf, task in tasks.items():
        probes = probe_documents(lm, task, results[leaf], train)
        moved = _divergences(lm, leaf, task, train, reference)
        found[leaf] = _with_kl(leaf, probes, moved, both=train is not None)
    return found


def _divergences(
    lm: SharedPrefixLM, leaf: str, task: Any, train: TrainConfig | None, reference: Reference
) -> dict[int, kl.Divergence]:
    file = reference.folder / f"{leaf}.safetensors"
    sampled = reference.sampled
    if sampled is None:
        return divergences(lm, file)
    # Another sample may have left one here.
    file.unlink(missing_ok=True)
    chosen = sampled.documents.get(leaf, [])
    rest = (sampled.positions, sampled.seed)
    if train is None:
        most = min(kl.MAX_TOKENS, lm.max_length)
        texts = kl.read_texts(task, chosen, lm.tokenizer, *rest, most)
    else:
        texts = kl.read_answers(task, chosen, lm.tokenizer, train, *rest, lm.max_length)
    return kl.keep_reference(texts, distributions(lm, list(texts.values())), file) if texts else {}


def _with_kl(
    leaf: str, probes: Sequence[DocumentProbe], moved: Mapping[int, kl.Divergence], both: bool
) -> list[DocumentProbe]:
    """Texts beside the scored documents (another sample is scored again) stand behind them."""
    known = {probe.doc_id for probe in probes}
    others = [DocumentProbe(doc_id) for doc_id in moved if doc_id not in known]
    found = []
    for probe in (*probes, *others):
        if (text := moved.get(probe.doc_id)) is not None:
            probe = replace(probe, kl=text.kl, positions=text.positions)
            probe = probe if text.kl is not None else probe.without_number(leaf, "kl")
            if both and text.reverse is None:
                probe = probe.without_number(leaf, "reverse_kl")
            elif both:
                probe = replace(probe, reverse_kl=text.reverse)
        found.append(probe)
    return found

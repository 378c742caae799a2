"""What a method may look up in the experiment around its stage (`methods.stage.Library`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cl_bench.data.examples import Example, gold_text, own_prompt, training_examples
from cl_bench.data.tasks import canonical_name
from cl_bench.errors import RunError, nearest
from cl_bench.evaluation.asked import leaves_named
from cl_bench.experiment.pruned import read_by
from cl_bench.experiment.stage_files import SMALL
from cl_bench.methods.spec import RunSpec, StageSpec
from cl_bench.models.bases import adapter_base
from cl_bench.models.checkpoints import load_checkpoint
from cl_bench.models.load import load_model, resolve_model_path, still_there
from cl_bench.models.saved_weights import SavedWeights
from cl_bench.store.folders import RunFolder, verify_folder

if TYPE_CHECKING:
    from cl_bench.experiment.workplace import Workplace


@dataclass(frozen=True)
class RunLibrary:
    """Weights of the run's stages before this one, examples and metrics of the config's tasks."""

    work: Workplace
    run: RunSpec
    folder: RunFolder
    position: int
    names: Collection[str]
    """Of the parameters that the stage's model begins with; empty where it has adapters."""
    _judges: dict[str, tuple[Any, float]] = field(default_factory=dict)

    def weights(self, k: int) -> Mapping[str, Tensor]:
        """Raises RunError where the stage is not an earlier one, or its checkpoint is gone."""
        config = self.work.config
        dtype, cpu = config.model.dtype, torch.device("cpu")
        if k == 0:
            with still_there():
                path = resolve_model_path(config.model.source)
            folder = path if isinstance(path, Path) else None

            def load() -> object:
                with still_there():
                    return load_model(path, dtype)[0]

            return SavedWeights(folder, self.names, getattr(torch, dtype), load)
        before = {stage.index: stage for stage in self.run.stages[: self.position]}
        if k not in before:
            known = ", ".join(map(str, before))
            raise RunError(
                f"stage.weights({k}): before this stage ({self.run.stages[self.position].index}) "
                f"there are 0 (the base model){f' and stages {known}' if known else ''}"
            )
        if config.keep != "all" and before[k] not in self._kept():
            raise RunError(
                f"stage.weights({k}): with keep: {config.keep} the weights of earlier stages are "
                "deleted but for those that the method's `earlier_weights` names, which leaves out "
                "this one: add it there, or give keep: all"
            )
        place = self.folder.stage(before[k].folder)
        if not place.trained:
            raise RunError(
                f"stage.weights({k}): {place.checkpoint} is not there any more, and the method "
                "needs the weights after that stage: restore it from a copy, or run the config "
                "under another name (-o name=NEW), which trains all stages again"
            )
        verify_folder(place.checkpoint, SMALL)
        whole = adapter_base(place.checkpoint) is None

        def load_merged() -> object:
            return load_checkpoint(place.checkpoint, dtype, cpu, adapters=False)[0]

        folder = place.checkpoint if whole else None
        return SavedWeights(folder, self.names, getattr(torch, dtype), load_merged)

    def _kept(self) -> list[StageSpec]:
        """Whose weights stay for this stage whatever `keep:` says."""
        return [self.run.stages[i] for i in read_by(self.run.stages, self.position)]

    def task_examples(self, name: str) -> Sequence[Example]:
        """Raises UserError for a task that the config does not name, or without training rows."""
        work, wanted = self.work, canonical_name(name)
        if wanted in work.experiment.sequence:
            return work.examples[wanted, work.experiment.limit_of(wanted), self.run.seed]
        return [
            example
            for task in leaves_named(work.suite, work.config, name).values()
            for example in training_examples(task, None, self.run.seed, shots=True)
        ]

    def score(self, example: Example, text: str) -> float:
        """Through the filters of the example's task, its headline metric over its scale."""
        from cl_bench.checks.reachable import Gold, Judge
        from cl_bench.evaluation.headline import headline_of

        task = self.work.suite.leaves.get(example.task)
        if task is None:
            raise RunError(
                f"stage.score: {example.task}: no loaded task of this config"
                f"{nearest(example.task, self.work.suite.leaves)}"
            )
        docs = task.training_docs() or []
        known = 0 <= example.doc_id < len(docs)
        doc = docs[example.doc_id] if known else None
        if not known or own_prompt(task, doc) != example.prompt:
            raise RunError(
                f"stage.score: no row of {example.task}'s training split has this example's prompt "
                f"(doc_id {example.doc_id}), so that there is no answer to compare with"
            )
        if task.OUTPUT_TYPE != "generate_until":
            return float(text.strip() == example.answer.strip())
        gold = Gold(example.doc_id, doc, gold_text(task, doc), example.answer, "")
        if example.task not in self._judges:
            judge = Judge(task)
            judge.scores([gold], [text])  # it reads what its headline is from a first result
            self._judges[example.task] = judge, headline_of(task, [judge.metric]).scale
        judge, scale = self._judges[example.task]
        (score,) = judge.scores([gold], [text])
        return float(score) / scale

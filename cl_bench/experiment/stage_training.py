"""Training one stage: from the model it begins with to the files that it leaves."""

from __future__ import annotations

import json
import random
import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cl_bench.data.chat import chat_of
from cl_bench.errors import DivergedError, RunError
from cl_bench.evaluation.curve import Curve, stage_curve
from cl_bench.experiment.adapter_base import BaseWeights
from cl_bench.experiment.finite import not_finite, where
from cl_bench.experiment.loop import train_stage
from cl_bench.experiment.memory import advice, enough_memory
from cl_bench.experiment.midway.opened import curve_goes_on, open_saves
from cl_bench.experiment.midway.places import drop_midway
from cl_bench.experiment.midway.saves import Saves
from cl_bench.experiment.peak_memory import restart_peak
from cl_bench.experiment.pruned import finish_again
from cl_bench.experiment.space import stored_by
from cl_bench.experiment.stage_files import (
    DELETED,
    TRAINING_FILES,
    record_failure,
    record_training,
)
from cl_bench.experiment.stage_view import SCRATCH, lost_ends, stage_view
from cl_bench.experiment.workplace import Workplace
from cl_bench.identity.bindings import PARTS
from cl_bench.methods.base import Method, Stage
from cl_bench.methods.spec import RunSpec, StageSpec
from cl_bench.methods.state import State, give_state, handed_on, state_of
from cl_bench.models.bases import adapter_base
from cl_bench.models.checkpoints import (
    is_adapter,
    load_checkpoint,
    load_tensors,
    save_checkpoint,
    save_tensors,
    write_checkpoint,
)
from cl_bench.models.load import load_model, resolve_model_path, still_there
from cl_bench.seeds import derive_seed
from cl_bench.store.experiments import read_run
from cl_bench.store.folders import (
    RunFolder,
    StageFolder,
    append_line,
    publish_folder,
    read_json,
    there,
    write_json,
)
from cl_bench.store.seals import file_records, write_sealed
from cl_bench.training.sharding import connected, state_of_first
from cl_bench.training.split_load import SplitLoad


def label_of(run: RunSpec, position: int) -> str:
    """A stage as lines on the way name it."""
    spec = run.stages[position]
    return f"{run.label}, seed {run.seed}, stage {spec.index}/{len(run.stages)} {spec.name}"


@dataclass
class Training:
    """One stage of one run that is trained; `written` is where its files go."""

    work: Workplace
    run: RunSpec
    folder: RunFolder
    position: int
    written: Path

    @cached_property
    def spec(self) -> StageSpec:
        """What is trained."""
        return self.run.stages[self.position]

    @cached_property
    def place(self) -> StageFolder:
        """The stage's own folder, where its checkpoint goes in the end."""
        return self.folder.stage(self.spec.folder)

    @property
    def beside(self) -> bool:
        """Whether it was trained before, and left what has to stay."""
        return self.written != self.place.path

    @property
    def split(self) -> bool:
        """Whether the weights are split over the processes, or over this one alone."""
        return self.spec.train.splits(self.work.processes.world)

    @property
    def _split_load(self) -> SplitLoad | None:
        """What loads the stage's model in parts, where it is split."""
        if not self.split:
            return None
        fetched = "weights" in self.spec.train.offload
        return SplitLoad(self.work.device, self.work.processes.world, fetched)

    @cached_property
    def label(self) -> str:
        """Of the stage, in lines."""
        return label_of(self.run, self.position)

    def train(self) -> tuple[Any, Any]:
        """Model and tokenizer, when all that the stage leaves is written.

        Raises NotSavedError where what an interrupted training saved cannot be used.
        """
        with connected(self.work.device) if self.split else nullcontext():
            return self._train()

    def _train(self) -> tuple[Any, Any]:
        work, spec = self.work, self.spec
        own_peak = restart_peak()
        at = (work, self.run, self.folder, self.position)
        saves, passes, logged = open_saves(*at, self.written)
        method = spec.build_method()
        model, tokenizer, base, state = _start(*at, self._split_load)
        if (chat := chat_of(work.suite.stage_tasks[spec.tasks[0]])) is not None:
            tokenizer.chat_template = chat.tokenizer.chat_template  # a checkpoint's too
        give_state(method, state)
        under = BaseWeights(spec, model)
        rank = work.processes.rank
        seed_everything(derive_seed(self.run.seed, spec.index, "training", rank))
        stage, batcher = stage_view(*at, model, tokenizer, self.written / SCRATCH)
        if self.split:
            batcher.even = True
        within = work.config.eval.within_stage
        curve = stage_curve(
            *(within, work.suite, spec, self.written, tokenizer, work.reporter),
            crew=work.processes,
        )
        curve_goes_on(work, curve, self.written)
        saves.apart, stage.passed = curve, passes.passed
        work.reporter.begin(self.label)

        def on_step(record: dict[str, Any], total: int) -> None:
            if work.first_process and record["step"] > logged:
                append_line(self.written / "train.jsonl", record)
            work.reporter.step(record, total)

        try:
            with enough_memory(where(stage), advice(spec.train)):
                train_stage(stage, method, batcher, on_step, curve, saves, self._say)
            own = state_of(method)
            _check_state(stage, method, own)
        except DivergedError as error:
            self._diverged(error)
            raise
        if work.first_process and "dead" in stage.notes:
            self._say(stage.notes["dead"])
        if spec.train.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        timing = self._timing(saves, curve, own_peak)
        under.check(stage.model)
        stage.notes.update(lost_ends(stage, batcher.encode))
        self._keep(stage, method, tokenizer, base, handed_on(method, state, own), timing)
        return stage.model, tokenizer

    def _say(self, line: str) -> None:
        self.work.reporter.line(f"{self.label}: {line}")

    def _diverged(self, error: DivergedError) -> None:
        if self.work.first_process:
            drop_midway(self.written)
            if not self.beside:
                record_failure(self.place, self.spec.index, list(self.spec.tasks), error)

    def _timing(self, saves: Saves, curve: Curve | None, own_peak: bool) -> dict[str, Any]:
        """Seconds and memory of the training, over all of its sessions."""
        within = 0.0 if curve is None else curve.seconds
        return {
            "train_seconds": round(saves.spent() - within, 2),
            "curve_seconds": round(within, 2),
            "save_seconds": round(saves.saving(), 3),
            "peak_memory_mb": saves.peak(),
            "peak_of": "stage" if own_peak else "process",
            "processes": self.work.processes.world,
        }

    def _keep(
        self,
        stage: Stage,
        method: Method,
        tokenizer: Any,
        base: str,
        left: State,
        timing: dict[str, Any],
    ) -> None:
        """Write the checkpoint and what belongs to it; the checkpoint gets its name last."""
        work, place, written = self.work, self.place, self.written
        temporary = None
        # Written before `scored` may put other weights into the model.
        weights = None
        if self.split and not is_adapter(stage.model):
            weights = state_of_first(stage.model, work.first_process)
        if work.first_process:
            at = (place.checkpoint, base, weights)
            temporary = write_checkpoint(stage.model, tokenizer, *at)
        scored = self._keep_scored(stage, method, tokenizer, base)
        work.processes.wait()
        if temporary is not None:
            shutil.rmtree(written / SCRATCH, ignore_errors=True)
            save_tensors(StageFolder(written).method_state, left.tensors)
            if left.records:
                write_json(StageFolder(written).method_records, left.records)
            save_tensors(StageFolder(written).selection_file, stage.selection)
            write_json(written / "notes.json", {**stage.notes, **self._other_parts()})
            write_sealed(written / "timing.json", timing)

            def ready(fingerprint: str) -> None:
                if not self.beside:
                    files = file_records(written, TRAINING_FILES)
                    record_training(place, fingerprint, scored, files)
                elif fault := finish_again(place, fingerprint, scored):
                    self._say(fault)

            shrink = stored_by(work.config, base, place.checkpoint)
            publish_folder(temporary, place.checkpoint, ready, shrink)
            drop_midway(written)
            (place.path / DELETED).unlink(missing_ok=True)
        work.processes.wait()

    def _keep_scored(self, stage: Stage, method: Method, tokenizer: Any, base: str) -> str | None:
        """Save the model that is scored where it is another one; returns its checksum."""
        if not self.spec.scores_another:
            return None
        found: list[str] = []
        with method.scored(stage) as model:
            weights = dict(model.named_parameters())
            wrong = {
                n: w for n, w in weights.items() if not bool((w.isfinite() | w.isneginf()).all())
            }
            if names := not_finite(wrong):
                raise RunError(
                    f"method {method.name}: of the model that it gives to be scored {names} not "
                    "finite"
                )
            if self.work.first_process:
                folder = self.place.scored_model
                shrink = stored_by(self.work.config, base, folder)
                save_checkpoint(model, tokenizer, folder, base, found.append, shrink)
        return found[0] if found else None

    def _other_parts(self) -> dict[str, Any]:
        """Where updates were computed in other parts than the run was begun with: those."""
        record = read_run(self.folder.path / "run.json")
        begun = record["config"]["stages"][self.position]["train"]
        now = self.spec.train.model_dump(mode="json")
        changed = {key: now[key] for key in PARTS if begun.get(key, now[key]) != now[key]}
        return {"trained_with": changed} if changed else {}


def _start(
    work: Workplace, run: RunSpec, folder: RunFolder, position: int, split: SplitLoad | None
) -> tuple[Any, Any, str, State]:
    """Model, tokenizer, what an adapter's base would be, and what methods kept."""
    spec, dtype = run.stages[position], work.config.model.dtype
    load = split or partial(load_model, device=str(work.device))
    if position == 0 or spec.start == "base":
        path = work.config.model.source
        with still_there():
            model, tokenizer = load(resolve_model_path(path), dtype)
        return model, tokenizer, path, State()
    before = folder.stage(run.stages[position - 1].folder)
    adapter = adapter_base(before.checkpoint)
    if split is not None and adapter is not None and not spec.adapters:
        cpu = torch.device("cpu")
        model, tokenizer = load_checkpoint(before.checkpoint, dtype, cpu, adapters=False)
        split.split(model)  # merged first, which takes whole weights
    else:
        given = (before.checkpoint, dtype, work.device, spec.adapters)
        model, tokenizer = load_checkpoint(*given, load)
    base = (adapter if spec.adapters else None) or str(before.checkpoint)
    records = before.method_records
    kept = read_json(records) if there(records) else {}
    return model, tokenizer, base, State(load_tensors(before.method_state), kept)


def _check_state(stage: Stage, method: Method, state: State) -> None:
    """Raises DivergedError where what the method hands to later stages is not finite.

    RunError where its records cannot be written.
    """
    tensors = {name: v for name, v in state.tensors.items() if v.is_floating_point()}
    if names := not_finite(tensors):
        what = f"diverged: of the method's state {names} not finite"
        raise DivergedError(f"stage {stage.index} ({stage.task})", what)
    try:
        json.dumps(dict(state.records), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"method {method.name}: state: records must be JSON values (texts, numbers, lists, "
            f"objects with texts as keys): {error}"
        ) from error


def seed_everything(seed: int) -> None:
    """Global generators (dropout, library code); everything of ours has its own."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)

"""What of a run's weights stays on disk, and in which form: `keep:` and `checkpoints:`.

A stage's weights are deleted only when the stage is scored and no stage that is not scored yet
needs them: to begin with them, to read them (`Method.earlier_weights`), or as what an adapter or a
delta belongs to. `deleted.json` says so first, then each folder loses its name at once, and is
removed. A kill anywhere leaves what the next start goes on deleting.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from cl_bench.config.schema import ExperimentConfig
from cl_bench.experiment.pruned import base_position, read_by
from cl_bench.experiment.stage_files import DELETED, why_deleted
from cl_bench.methods.spec import RunSpec, StageSpec
from cl_bench.models.bases import adapter_base
from cl_bench.store.folders import DELTA, RunFolder, StageFolder, stage_number, there
from cl_bench.store.seals import write_sealed


def stored_by(config: ExperimentConfig, base: str, final: Path) -> Callable[[Path], None] | None:
    """How the new folder `final` is stored: for `publish_folder`; None for whole files.

    `base`: what the stage began with. Where earlier checkpoints are deleted a delta belongs to the
    base model instead, so that none of them is needed.
    """
    if config.checkpoints == "full":
        return None
    from cl_bench.models.deltas import shrinking

    origin = base if config.keep == "all" else config.model.source
    while (under := adapter_base(Path(origin).expanduser())) is not None:
        origin = under
    return shrinking(origin, final)


def needed_positions(
    folder: RunFolder, stages: Sequence[StageSpec], keep: str, bases: bool = True
) -> set[int]:
    """Positions of the stages whose weights stay with `keep: last` or `scores`.

    `bases`: with those that adapters and deltas belong to.
    """
    places = [folder.stage(stage.folder) for stage in stages]
    trained = [i for i, place in enumerate(places) if place.trained]
    open_ = [i for i, place in enumerate(places) if not place.scored]
    found = set(trained[-1:]) if keep == "last" or open_ else set()
    for position in open_:
        found |= {position} if position in trained else set(read_by(stages, position))
    for position in sorted(found, reverse=True) if bases else ():
        while (base := base_position(folder, stages, position)) is not None:
            found.add(base)
            position = base
    return found


def _free(folder: RunFolder, stages: Sequence[StageSpec], keep: str) -> None:
    """Make whole what stays and belongs as a delta to a stage that would be deleted otherwise.

    With `keep: last` deltas belong to the base model: these are of a start with `keep: all`.
    """
    from cl_bench.models.deltas import make_whole

    kept = needed_positions(folder, stages, keep, bases=False)
    for position in kept:
        place = folder.stage(stages[position].folder)
        for saved in (place.checkpoint, place.scored_model):
            leftover = list(saved.glob(".whole-*"))
            for gone in leftover:
                shutil.rmtree(gone)
            base = base_position(folder, stages, position)
            stray = not there(saved / DELTA) and any(saved.glob("*.delta.safetensors"))
            if stray or (there(saved / DELTA) and base is not None and base not in kept):
                make_whole(saved)


def delete_unneeded(folder: RunFolder, run: RunSpec, keep: str) -> list[int]:
    """Delete the weights that `keep` does not want; the numbers of their stages."""
    for stage in run.stages:  # of a start that was killed while it deleted
        for gone in folder.stage(stage.folder).path.glob(".*.deleted"):
            shutil.rmtree(gone)
    if keep == "all":
        return []
    _free(folder, run.stages, keep)
    needed = needed_positions(folder, run.stages, keep)
    return [
        stage.index
        for position, stage in enumerate(run.stages)
        if position not in needed and _delete(folder.stage(stage.folder), keep)
    ]


def delete_and_say(folder: RunFolder, run: RunSpec, keep: str, say: Callable[[str], None]) -> None:
    """`delete_unneeded`, with a line about what was deleted."""
    if numbers := delete_unneeded(folder, run, keep):
        several = "s" if len(numbers) > 1 else ""
        named = ", ".join(map(str, numbers))
        say(
            f"{run.label}, seed {run.seed}: checkpoint{several} of stage{several} {named} deleted "
            f"(keep: {keep})"
        )


def _delete(place: StageFolder, keep: str) -> bool:
    """Whether a checkpoint was deleted."""
    if not place.scored:
        return False
    whole = place.checkpoint.exists()
    if whole:
        write_sealed(place.path / DELETED, {"keep": keep})
    for folder in (place.checkpoint, place.scored_model):
        if folder.exists():
            gone = folder.with_name(f".{folder.name}.deleted")
            folder.replace(gone)
            shutil.rmtree(gone)
    place.method_state.unlink(missing_ok=True)
    return whole


def deletions(stages: Iterable[StageFolder]) -> Iterator[str]:
    """`stages 1, 2: checkpoints deleted (keep: last)`, for each setting."""
    found: dict[str, list[str]] = {}
    for place in stages:
        if (why := why_deleted(place)) is not None:
            found.setdefault(why, []).append(str(stage_number(place.path.name)))
    for why, numbers in found.items():
        several = "s" if len(numbers) > 1 else ""
        yield (
            f"stage{several} {', '.join(numbers)}: checkpoint{several} deleted when nothing needed "
            f"{'them' if several else 'it'} any more ({why})"
        )


def kept_bytes(
    stages: Sequence[StageSpec],
    sizes: Sequence[int],
    keep: str,
    present: Collection[int] = (),
    done: Collection[int] = (),
) -> tuple[int, int]:
    """What a run's weights of these sizes take in the end, and at most on the way there.

    `present`: positions whose weights are there already; `done`: those that are not trained again.
    What belongs to what is told without files: adapters to the stage of whole weights before them,
    deltas to a stage only under `keep: all`.
    """
    kept, at_most = set(present), sum(sizes[position] for position in present)
    for position in range(len(stages)):
        if position in done:
            continue
        kept.add(position)
        at_most = max(at_most, sum(sizes[i] for i in kept))
        if keep == "all":
            continue
        needed = {position}
        for later in range(position + 1, len(stages)):
            needed |= set() if later in done else set(read_by(stages, later))
        kept &= needed | {base for one in needed for base in _bases(stages, one)}
    last = max(kept, default=0)
    if keep == "last":
        kept &= {last, *_bases(stages, last)}
    return 0 if keep == "scores" else sum(sizes[i] for i in kept), at_most


def _bases(stages: Sequence[StageSpec], position: int) -> Iterator[int]:
    """The last stage of whole weights before an adapter, which it belongs to."""
    here = position
    while here and stages[here].adapters and stages[here].start != "base":
        here -= 1
    if here != position and not stages[here].adapters:
        yield here

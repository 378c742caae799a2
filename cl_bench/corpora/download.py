"""Downloading known files: resumable, checked, atomic.

A file grows as `<name>.<id>.part` beside its target, where `<id>` comes from the checksum, so that
an interrupted download is taken up where it stopped and never continued with another version's
bytes. For a file made of several, `.part` is a folder of them. Only a file with the right checksum
gets its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cl_bench.corpora.checksums import checksum_of_bytes, checksum_of_file
from cl_bench.corpora.recipes import RECIPES, Recipe, Sources
from cl_bench.corpora.registry import KnownFile, check_mirror, raw_url
from cl_bench.corpora.storage import check_overwrite, check_room, holding_data_root, holds
from cl_bench.corpora.transfer import Patience, TransferError, receive
from cl_bench.errors import RunError

_PATIENCE = Patience()
_ADVICE = (
    "Run the same command again: finished files are kept, begun ones resumed. Where GitHub cannot "
    "be reached: --mirror, or `cl-bench data import` with TRACE's own archive."
)

OnProgress = Callable[[str, int, int | None], None]
"""Called with the file, the bytes there, and the size (None if the server does not say)."""


@dataclass(frozen=True)
class Outcome:
    """What was done for a file: `kept` (was there), `downloaded`, `resumed` or `built`."""

    file: str
    action: str
    size: int
    checked_by: str


@dataclass(frozen=True)
class _Job:
    """What every download of one call shares."""

    root: Path
    mirror: str | None
    patience: Patience
    on_progress: OnProgress


def get_files(
    files: Sequence[KnownFile],
    root: Path,
    *,
    mirror: str | None = None,
    force: bool = False,
    patience: Patience = _PATIENCE,
    on_progress: OnProgress = lambda file, done, total: None,
) -> list[Outcome]:
    """Downloads what is not there yet into `root`; returns one outcome a file, in order.

    Raises UserError (bad mirror, no room, root not writable or locked, another version there and
    no `force`) before the first byte; RunError after trying every file, naming those that failed.
    What was finished stays, what was begun is resumed by the next call.
    """
    check_mirror(mirror)
    job = _Job(root, mirror, patience, on_progress)
    with holding_data_root(root):
        missing = [known for known in files if not holds(root / known.file, known)]
        if not force:
            check_overwrite((root / known.file for known in missing), root)
        check_room(root, sum(known.size or 0 for known in missing))
        actions = _obtain_all(job, missing)
        return [_outcome(known, root, actions.get(known.file, "kept")) for known in files]


def _obtain_all(job: _Job, missing: Sequence[KnownFile]) -> dict[str, str]:
    """What was done, by file. Raises RunError naming every file that could not be had."""
    failures: list[str] = []
    actions: dict[str, str] = {}
    for number, known in enumerate(missing):
        try:
            actions[known.file] = _obtain(job, known)
        except TransferError as error:
            failures.append(f"{known.file}: {error}")
            if error.passing:  # the network is down: the other files would wait in vain
                failures += [f"{late.file}: not tried" for late in missing[number + 1 :]]
                break
    if failures:
        raise RunError("\n".join([*failures, _ADVICE]))
    return actions


def checked_by(known: KnownFile) -> str:
    """Which fingerprint a downloaded file is compared with."""
    return "sha256" if known.sha256 is not None else "git blob id (sha256 unknown)"


def part_file(known: KnownFile, root: Path) -> Path:
    """Where the unfinished download of a file is kept."""
    target = root / known.file
    identity = (known.sha256 or known.git_blob or known.commit)[:12]
    return target.with_name(f"{target.name}.{identity}.part")


def _outcome(known: KnownFile, root: Path, action: str) -> Outcome:
    return Outcome(known.file, action, (root / known.file).stat().st_size, checked_by(known))


def _obtain(job: _Job, known: KnownFile) -> str:
    """Gets one file into place and says how."""
    target, part = job.root / known.file, part_file(known, job.root)
    target.parent.mkdir(parents=True, exist_ok=True)
    recipe = RECIPES.get(known.file)
    if recipe is not None:
        _build(job, known, recipe, part)
        return "built"
    begun = part.exists()
    url, on_bytes = raw_url(known, job.mirror), partial(job.on_progress, known.file)
    try:
        receive(url, part, job.patience, on_bytes, partial(_check, part, known))
    except TransferError as error:
        raise TransferError(f"{error} ({url})", error.passing) from error
    part.replace(target)
    return "resumed" if begun else "downloaded"


def _build(job: _Job, known: KnownFile, recipe: Recipe, folder: Path) -> None:
    """Downloads a recipe's sources into `folder`, makes the file, and clears the folder away."""
    folder.mkdir(exist_ok=True)
    target = job.root / known.file
    content: dict[str, bytes] = {}
    for number, path in enumerate(recipe.sources, 1):
        source = folder / f"{number:03d}-{Path(path).name}"
        if not source.exists():
            url, part = raw_url(known, job.mirror, path), source.with_name(f"{source.name}.part")
            try:
                receive(url, part, job.patience, lambda done, total: None)
            except TransferError as error:
                raise TransferError(f"{error} ({url})", error.passing) from error
            part.replace(source)
        content[path] = source.read_bytes()
        job.on_progress(known.file, number, len(recipe.sources))
    made = _made(recipe, content)
    if not checksum_of_bytes(made).matches(known):
        shutil.rmtree(folder)
        raise TransferError("what the server sent does not make the known file", passing=False)
    finished = folder / target.name
    finished.write_bytes(made)
    finished.replace(target)
    shutil.rmtree(folder)


def _made(recipe: Recipe, sources: Sources) -> bytes:
    """The recipe's result; nothing (which no checksum matches) from sources of another form."""
    try:
        return recipe.build(sources)
    except (ValueError, LookupError, TypeError):
        return b""


def _check(part: Path, known: KnownFile, resumed: bool) -> None:
    """Deletes a finished download that has other bytes than the known ones and raises.

    After a resumed transfer another attempt can help: what was there may have been damaged.
    """
    checksum = checksum_of_file(part)
    if checksum.matches(known):
        return
    part.unlink()
    got, expected = checksum.sha256, known.sha256
    if expected is None:
        got, expected = checksum.git_blob, known.git_blob
    raise TransferError(
        f"wrong checksum ({checked_by(known)}): {checksum.size:,} bytes with {got}, "
        f"expected {expected}",
        passing=resumed,
    )

"""What is known about every data file: where it is published, its checksum, its licence.

`files.csv` beside this module is the table, one file a line. TRACE itself ships as a Google Drive
archive; the files come from a public republication of it on GitHub (zjwang21/TRACE, one commit).

- `sha256`: of the bytes. Empty for 14 files that were never read here (they are over 4 MiB);
  those are checked by `git_blob`.
- `git_blob`: git's own object id, from the tree of the pinned commit: known for every TRACE file.
- `examples`: of the (prompt, answer) list, whatever the JSON layout (`checksums.examples_digest`).
- `rows`: counted, or for the unread files TRACE's documented size; empty where nobody states it.
- `status`: `exact` (published under this very form), `built` (made from published files by a
  recipe of `recipes.py`, always to the same bytes), `rebuilt` (recognised, not downloadable).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cl_bench.errors import UserError, nearest
from cl_bench.metrics.trace_tasks import TASKS

FOLDERS = tuple(task.trace_name for task in TASKS.values())
"""The eight TRACE tasks in TRACE's default order; also the names of their folders."""
LIMA = "Lima"
"""TRACE's replay pool: gated upstream, so downloaded and imported only when named."""
SPLITS = ("train", "eval", "test")
VARIANTS = ("5000", "1000", "500")
"""Training examples per task, sampled separately by TRACE's authors; the paper uses 5000."""

GITHUB_RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class KnownFile:
    """One line of `files.csv`. `file` is the path under the data root; None = not known."""

    file: str
    variant: str
    status: str
    rows: int | None
    size: int | None
    sha256: str | None
    git_blob: str | None
    examples: str | None
    repository: str
    commit: str
    path: str

    @property
    def dataset(self) -> str:
        """`FOMC` of `trace/FOMC/train.json`, `gsm8k` of `general/gsm8k/test.jsonl`."""
        return self.file.split("/")[1]

    @property
    def split(self) -> str:
        return Path(self.file).stem


@dataclass(frozen=True)
class Licence:
    """Terms of the original authors, which a republication cannot change."""

    dataset: str
    origin: str
    terms: str
    non_commercial: bool = False


LICENCES = (
    Licence("C-STANCE", "chenyez/C-STANCE", "no licence file ('publicly release')"),
    Licence("FOMC", "gtfintechlab/fomc-hawkish-dovish", "CC BY-NC 4.0", True),
    Licence("MeetingBank", "huuuyeah/meetingbank", "CC BY-NC-SA 4.0", True),
    Licence("Py150", "ETH Py150 through CodeXGLUE", "C-UDA; the code under its own licences"),
    Licence("ScienceQA", "lupantech/ScienceQA", "CC BY-NC-SA 4.0", True),
    Licence("NumGLUE-cm", "allenai/numglue", "ODC-By"),
    Licence("NumGLUE-ds", "allenai/numglue", "ODC-By"),
    Licence("20Minuten", "ZurichNLP/20Minuten", "no licence stated; news text"),
    Licence(LIMA, "GAIR/lima (gated)", "CC BY-NC-SA", True),
    Licence("mmlu", "hendrycks/test", "MIT"),
    Licence("bbh", "suzgunmirac/BIG-Bench-Hard", "MIT"),
    Licence("tydiqa", "google-research-datasets/tydiqa", "Apache-2.0; passages CC BY-SA"),
    Licence("piqa", "ybisk/ybisk.github.io", "AFL 3.0"),
    Licence("boolq", "google-research-datasets/boolean-questions", "CC BY-SA 3.0"),
    Licence("gsm8k", "openai/grade-school-math", "MIT"),
)


@lru_cache(maxsize=1)
def known_files() -> tuple[KnownFile, ...]:
    """All lines of `files.csv`."""
    with Path(__file__).with_name("files.csv").open(encoding="utf-8", newline="") as table:
        return tuple(_known_file(line) for line in csv.DictReader(table))


def trace_files(variant: str, tasks: Sequence[str]) -> list[KnownFile]:
    """The files of one variant (`5000`, `1000`, `500`) for these tasks, as published."""
    return [
        known
        for known in known_files()
        if known.file.startswith("trace/")
        and known.variant == variant
        and known.dataset in tasks
        and known.status == "exact"
    ]


def general_files(names: Iterable[str] = ()) -> list[KnownFile]:
    """The general-ability files that can be had; `names` keeps these sets only.

    Raises UserError listing every unknown name.
    """
    files = [
        known
        for known in known_files()
        if known.file.startswith("general/") and known.status != "rebuilt"
    ]
    sets = {known.dataset for known in files}
    wanted = [part.strip().casefold() for name in names for part in name.split(",")]
    if unknown := [name for name in wanted if name not in sets]:
        raise UserError([f"--task: unknown set {name!r}{nearest(name, sets)}" for name in unknown])
    return [known for known in files if not wanted or known.dataset in wanted]


def versions_of(file: str) -> list[KnownFile]:
    """Every known version of one path under the data root (TRACE's variants, rebuilt ones)."""
    return [known for known in known_files() if known.file == file]


def raw_url(known: KnownFile, mirror: str | None, path: str | None = None) -> str:
    """Where to download a file, or another `path` of the same commit.

    `mirror` replaces GitHub's raw host, or is a template with `{repository}`, `{commit}` and
    `{path}`, such as `https://cdn.jsdelivr.net/gh/{repository}@{commit}/{path}`.
    """
    from urllib.parse import quote

    base = (mirror or GITHUB_RAW).rstrip("/")
    if "{path}" not in base:
        base += "/{repository}/{commit}/{path}"
    return (
        base.replace("{repository}", quote(known.repository))
        .replace("{commit}", known.commit)
        .replace("{path}", quote(known.path if path is None else path))
    )


def check_mirror(mirror: str | None) -> None:
    """Raises UserError unless the mirror is an http(s) address."""
    if mirror is not None and not mirror.startswith(("http://", "https://")):
        raise UserError(f"--mirror: {mirror!r} is not an http:// or https:// address")


def check_variant(variant: str) -> str:
    """The variant's name, or UserError with the known ones."""
    if variant not in VARIANTS:
        raise UserError(f"--variant: unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    return variant


def select_tasks(names: Iterable[str], default: Sequence[str]) -> list[str]:
    """Folder names for what the user wrote: `FOMC`, `fomc`, `trace_fomc`, `FOMC,Py150`.

    Without names, `default`. Raises UserError listing every unknown name.
    """
    known = {_plain(task): task for task in (*FOLDERS, LIMA)}
    written = [part.strip() for name in names for part in name.split(",") if part.strip()]
    unknown = [name for name in written if _plain(name) not in known]
    if unknown:
        raise UserError(
            [f"--task: unknown task {name!r}{nearest(name, known.values())}" for name in unknown]
        )
    return list(dict.fromkeys(known[_plain(name)] for name in written)) or list(default)


def licences_of(datasets: Iterable[str]) -> list[Licence]:
    """The licences of these datasets, in the table's order."""
    wanted = set(datasets)
    return [licence for licence in LICENCES if licence.dataset in wanted]


def _plain(name: str) -> str:
    letters = "".join(character for character in name.casefold() if character.isalnum())
    return letters.removeprefix("trace")


def _known_file(line: dict[str, str]) -> KnownFile:
    return KnownFile(
        file=line["file"],
        variant=line["variant"],
        status=line["status"],
        rows=int(line["rows"]) if line["rows"] else None,
        size=int(line["bytes"]) if line["bytes"] else None,
        sha256=line["sha256"] or None,
        git_blob=line["git_blob"] or None,
        examples=line["examples"] or None,
        repository=line["repository"],
        commit=line["commit"],
        path=line["path"],
    )

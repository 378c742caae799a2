"""The catalogue of bad inputs (`tests/bad_inputs/`): what a file of it says, and laying it out.

Every file is one case in YAML:

what      one sentence, for whoever reads a failure
place     fresh (default): config, data and model, nothing run; finished, half: with results
config    keys that replace those of `tiny.yaml`
files     by path what is written there: a text, or one of `WRITERS`; null deletes what is there
command   words of the command line; default: run tiny.yaml
exit      its exit code
says      words that the message holds, all of them
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cl_bench.store.folders import sha256_of
from cl_bench.store.seals import seal_of

CATALOGUE = Path(__file__).resolve().parents[1] / "bad_inputs"


@dataclass(frozen=True)
class BadInput:
    """One case."""

    name: str
    what: str
    exit: int
    says: list[str]
    place: str = "fresh"
    config: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Any] = field(default_factory=dict)
    command: list[str] = field(default_factory=lambda: ["run", "tiny.yaml"])

    def lay_out(self, folder: Path) -> None:
        """Put what is given into a folder that holds the case begins in."""
        config = folder / "tiny.yaml"
        if self.config:
            config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | self.config))
        for name, content in self.files.items():
            _write(folder / name, content)


def cases() -> list[BadInput]:
    """The whole catalogue, in the order of its files' names."""
    return [_read(file) for file in sorted(CATALOGUE.rglob("*.yaml"))]


def _read(file: Path) -> BadInput:
    name = str(file.relative_to(CATALOGUE).with_suffix(""))
    return BadInput(name=name, **yaml.safe_load(file.read_text(encoding="utf-8")))


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        _delete(path)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    else:
        ((kind, given),) = content.items()
        WRITERS[kind](path, given)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _bytes(path: Path, given: str) -> None:
    path.write_bytes(given.encode("latin-1"))


def _jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _pieces(path: Path, pieces: list[Any]) -> None:
    """Texts, and `[text, times]` for one that is repeated."""
    texts = [piece if isinstance(piece, str) else piece[0] * piece[1] for piece in pieces]
    path.write_text("".join(texts), encoding="utf-8", newline="")


def _link(path: Path, target: str) -> None:
    """A symlink; what was there is moved to the target, if that is not there."""
    goal = path.parent / target
    if path.exists() and not goal.exists():
        goal.parent.mkdir(parents=True, exist_ok=True)
        path.rename(goal)
    if path.is_symlink() or path.exists():
        _delete(path)
    path.symlink_to(target)


def _copy(path: Path, source: str) -> None:
    """Another file or folder of the same place."""
    if path.exists():
        _delete(path)
    other = path.parent / source
    (shutil.copytree if other.is_dir() else shutil.copyfile)(other, path)


def _edit(path: Path, changes: Mapping[str, Any]) -> None:
    """Values of a JSON file by dotted key, its seals made again: what no checksum shows."""
    data = _changed(path, changes)
    if "seal" in data:
        data["sha256"] = sha256_of(data["config"])
        data["seal"] = seal_of(data, "seal")
    elif "sha256" in data:
        data["sha256"] = seal_of(data)
    path.write_text(json.dumps(data))


def _changed(path: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    for key, value in changes.items():
        place, (*parents, last) = data, key.split(".")
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return data


def _damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "flip":
        content[len(content) // 2] ^= 4
    elif kind == "half":
        del content[len(content) // 2 :]
    elif kind == "last line":
        content = bytearray(b"".join(bytes(content).splitlines(keepends=True)[:-1]))
    elif kind == "zeros":
        content = bytearray(len(content))
    else:
        raise ValueError(kind)
    path.write_bytes(content)


def _folder(path: Path, _: Any) -> None:
    if path.exists():
        _delete(path)
    path.mkdir()


WRITERS: Mapping[str, Callable[[Path, Any], None]] = {
    "bytes": _bytes,
    "jsonl": _jsonl,
    "json": lambda path, value: _pieces(path, [json.dumps(value)]),
    "pieces": _pieces,
    "link": _link,
    "copy": _copy,
    "edit": _edit,
    "change": lambda path, changes: path.write_text(json.dumps(_changed(path, changes))),
    "damage": _damage,
    "folder": _folder,
}

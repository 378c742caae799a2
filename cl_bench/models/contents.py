"""What a model and a tokenizer are, whatever their folder is called: checksums of their files.

A file of weights is read once: its checksum is kept in the user's cache, by path, size and times.
Nothing here imports torch.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.models.load import split_revision
from cl_bench.resources import absolute, expanded, user_cache
from cl_bench.store.experiments import EXPERIMENT, read_experiment
from cl_bench.store.folders import located, read_json, sha256_file, sha256_of

KEPT_FROM = 1 << 20
"""Bytes from which on a file's checksum is kept: smaller ones are as quick to read again."""
TOLD_FROM = 1 << 30
"""Bytes from which on the user is told that a file is read."""
SETTLED_NS = 2 * 10**9
"""A file that was changed just before it was read may change again within the clock's tick."""
SINGLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In transformers' order, each before its index of several files."""
ANY_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth")
TOKENIZER_FILES = (
    *("tokenizer*", "vocab*", "merges*", "added_tokens.json", "special_tokens_map.json"),
    *("spiece*", "sentencepiece*", "*.model", "*.tiktoken", "*.spm"),
)
SETTINGS_FILES = ("config.json", "generation_config.json")
NO_CONTENT = ("transformers_version", "_name_or_path", "torch_dtype", "dtype")
"""Keys of those files that say who wrote them; the run has a dtype of its own."""

Say = Callable[[str], None]


def model_contents(source: str | Path, say: Say | None = None) -> dict[str, Any]:
    """`files`: sha256 by name of the weights and settings; `commit`: of a hub model.

    `source` is a folder, `owner/name`, `owner/name@revision` or the quickstart model. Of a hub
    model what is in Hugging Face's cache counts; without its weights `files` is missing, without
    anything the record is empty: then there is nothing to compare.
    """
    folder, commit = model_folder(source)
    found: dict[str, Any] = {} if commit is None else {"commit": commit}
    weights = [] if folder is None else _weights(folder)
    if folder is not None and weights and all(file.is_file() for file in weights):
        files = {file.name: checksum(file, say) for file in weights}
        settings = [folder / name for name in SETTINGS_FILES if (folder / name).is_file()]
        found["files"] = files | {file.name: _settings_checksum(file) for file in settings}
    return found


def tokenizer_contents(source: str | Path) -> dict[str, str]:
    """sha256 by name of the tokenizer's files; empty when they are not on this machine."""
    folder, _ = model_folder(source)
    if folder is None:
        return {}
    found = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in TOKENIZER_FILES)
    ]
    return {file.name: checksum(file) for file in found}


def same_model(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool | None:
    """Whether two records of `model_contents` are of one model; None when they do not say."""
    for key in ("files", "commit"):
        if key in before and key in now:
            return bool(before[key] == now[key])
    return None


def changed_files(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two records of one kind: names of files, or the commits."""
    ours, theirs = before.get("files", {}), now.get("files", {})
    if ours and theirs:
        return sorted(name for name in ours | theirs if ours.get(name) != theirs.get(name))
    return [f"commit {before.get('commit')}, now {now.get('commit')}"]


def model_folder(source: str | Path) -> tuple[Path | None, str | None]:
    """The model's folder on this machine, and the commit when it is in the hub's cache."""
    if source == QUICKSTART_MODEL:
        return _existing(user_cache() / "models" / QUICKSTART_MODEL), None
    local = expanded(source)
    if local.is_dir():
        return local, None
    name, revision = split_revision(str(source))
    file = _hub_file(name, revision)
    return (None, None) if file is None else (file.parent, file.parent.name)


def _existing(folder: Path) -> Path | None:
    return folder if folder.is_dir() else None


def _hub_file(name: str, revision: str | None) -> Path | None:
    """`config.json` of a hub model in Hugging Face's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except HFValidationError:  # a path that is no hub id
        return None
    return Path(found) if isinstance(found, str) else None


def _weights(folder: Path) -> list[Path]:
    """The files that transformers loads; some may be missing from the hub's cache."""
    adapter = [file for file in folder.glob("adapter_model.*") if file.is_file()]
    for name in SINGLE_WEIGHTS:
        if (folder / name).is_file():
            return [folder / name, *adapter]
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = _shards(index)
            return [index, *(folder / shard for shard in shards), *adapter]
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and any(fnmatch(file.name, pattern) for pattern in ANY_WEIGHTS)
    )


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError):
        return []  # damaged: loading it says so


def _settings_checksum(file: Path) -> str:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return sha256_file(file)
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if key not in NO_CONTENT}
    return sha256_of(data)


def checksum(file: Path, say: Say | None = None) -> str:
    """sha256 of a file; of a large one as it was found the last time, if it has not changed."""
    if len(name := file.resolve().name) == 64 and set(name) <= set("0123456789abcdef"):
        return name  # the hub's cache calls large files by their sha256
    state = file.stat()
    if state.st_size < KEPT_FROM:
        return sha256_file(file)
    path = str(file.resolve())
    key = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    kept = _kept().get(path)
    if isinstance(kept, list) and kept[:3] == key:
        return str(kept[3])
    if say is not None and state.st_size >= TOLD_FROM:
        say(f"reading {file} once ({state.st_size / 1e9:.1f} GB), to know the same weights again")
    began = time.time_ns()
    found = sha256_file(file)
    if began - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED_NS:
        _keep(path, [*key, found])
    return found


def _kept_file() -> Path:
    return user_cache() / "checksums.json"


def _kept() -> dict[str, Any]:
    try:
        data = json.loads(_kept_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _keep(path: str, entry: list[Any]) -> None:
    """Add an entry and drop those of files that are gone; none where it cannot be written."""
    data = {name: kept for name, kept in _kept().items() if Path(name).exists()} | {path: entry}
    try:
        _kept_file().parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=_kept_file().parent, prefix=".checksums-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        Path(temporary).replace(_kept_file())
    except OSError:
        return


def adapter_bases(folder: Path, recorded: str) -> Iterator[str]:
    """Where the base of the adapter in `folder` may be, most likely first.

    In an experiment: where the record says, if that is in the experiment's folder or the config's
    model; where the config has its model today. Elsewhere: where the record says, where PEFT wrote
    that it was loaded from. A folder that is moved takes its checksum with it, so each can be
    checked.
    """
    experiment = next((p for p in folder.resolve().parents if (p / EXPERIMENT).is_file()), None)
    if experiment is not None:
        model = read_experiment(experiment)["config"].get("model", {})
        path = str(model.get("path") or "")
        today = located(path, experiment)
        own = Path(recorded).is_absolute() and absolute(recorded).is_relative_to(experiment)
        if own or recorded in (today, f"{today}@{model.get('revision')}"):
            yield recorded
        if path:
            yield today
        return
    yield recorded
    peft = folder / "adapter_config.json"
    if peft.is_file() and (path := read_json(peft).get("base_model_name_or_path")):
        yield str(path)


def names(files: Iterable[str]) -> str:
    """At most five names, and how many more there are."""
    listed = list(files)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return ", ".join(listed[:5]) + more

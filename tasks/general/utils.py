"""What the YAMLs of this folder call: test documents, from `data_root` or from the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cl_bench.data.hub import general_split
from cl_bench.data.sources import BINARY, TEXT, TRUE_FALSE

if TYPE_CHECKING:
    from datasets import Dataset


def piqa(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """PIQA's labelled validation set, columns goal, sol1, sol2, label (0 or 1)."""
    fields = {"goal": TEXT, "sol1": TEXT, "sol2": TEXT, "label": BINARY}
    return {"test": general_split("general/piqa", fields, hub, data_root=data_root)}


def boolq(*, hub: dict[str, Any], data_root: str | None = None, **_: Any) -> dict[str, Dataset]:
    """BoolQ's labelled validation set, columns question, passage, label (0 no, 1 yes)."""
    fields = {"question": TEXT, "passage": TEXT, "label": TRUE_FALSE}
    documents = general_split(
        "general/boolq",
        fields,
        hub,
        data_root=data_root,
        convert=lambda row: {**row, "label": int(row["label"] == "true")},
        converted={**fields, "label": BINARY},
    )
    return {"test": documents}

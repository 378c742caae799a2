"""A safetensors file that is written over an older one, whose place on the disk it takes.

A save in the middle of a stage is as large as the one before and replaces it. Where new pages of
memory are dear (virtual machines that give free ones back), those of a new file cost several times
the copying.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cl_bench.store.file_errors import writing

if TYPE_CHECKING:
    from torch import Tensor

TYPES = {
    **{"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"},
    **{"int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL"},
}
"""The format's names of torch's types."""
ALIGNED = 8
"""Bytes, of which the header has a multiple."""


def write_over(old: Path, path: Path, tensors: Mapping[str, Tensor]) -> None:
    """The tensors in `path`, with the bytes of the file `old`, which is gone then.

    A safetensors file that its library reads; the tensors may be on any device. Raises RunError
    where the disk is full, and KeyError for a type that is not in `TYPES`.
    """
    import torch

    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header, end = {}, 0
    for name in names:
        value, begin = tensors[name], end
        end += value.nbytes
        kind = TYPES[str(value.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [begin, end]}
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        old.replace(temporary)
        with temporary.open("r+b") as file:
            file.write(_framed(header))
            for name in names:
                flat = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
                file.write(flat.numpy().data)
            file.truncate()
        temporary.replace(path)


def _framed(header: Mapping[str, Any]) -> bytes:
    """Its length and itself, filled up with spaces."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNED)
    return len(text).to_bytes(8, "little") + text

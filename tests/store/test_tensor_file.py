"""A safetensors file written over an older one: the library reads what was written alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cl_bench.store.tensor_file import TYPES, write_over

TENSORS = {
    **{name: torch.arange(12).reshape(3, 4).to(getattr(torch, name)) for name in TYPES},
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "ü": torch.tensor([1], dtype=torch.bool),
}


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_the_library_reads_it(tmp_path: Path, size: int) -> None:
    old, path = tmp_path / "old", tmp_path / "new.safetensors"
    old.write_bytes(b"x" * size)
    place = old.stat().st_ino
    write_over(old, path, TENSORS)
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_ino == place, "not in the place of the old one"


def test_it_is_as_long_as_the_librarys(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * 10_000)
    write_over(tmp_path / "old", tmp_path / "ours", {"a": torch.ones(5), "b": torch.ones(2)})
    save_file({"a": torch.ones(5), "b": torch.ones(2)}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()

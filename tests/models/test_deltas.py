"""Weights as differences: every form, every dtype, files in parts, and other places of layers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cl_bench.errors import RunError
from cl_bench.models.deltas import StoredTensors, check_whole, make_whole, shrinking, write_whole
from cl_bench.models.differences import Difference, applied, difference, words
from cl_bench.store.folders import publish_folder, sha256_file, verify_folder
from tests.helpers.tiny import byte_tokenizer, tiny_model

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool]
SHAPES = [(), (7,), (33, 17), (3, 5, 9), (0, 4)]


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return (torch.randn(shape) * 10).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_applied_is_what_differed(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    old = drawn(shape, dtype)
    for share in (0.0, 0.02, 0.4, 1.0):
        new = torch.where(torch.rand(shape) < share, drawn(shape, dtype), old)
        found = difference(new, old)
        assert torch.equal(words(applied(found, old, new.shape, dtype)), words(new))
        assert found.packed.numel() <= new.numel() * new.element_size()
    alone = difference(old, None)
    assert torch.equal(words(applied(alone, None, old.shape, dtype)), words(old))


def test_forms_and_their_bytes() -> None:
    """Numbers of rows, columns or entries in int32, a bit for each entry; then their values."""
    old = torch.zeros(50, 40, dtype=torch.bfloat16)
    rows, columns, few, many = (old.clone() for _ in range(4))
    rows[[3, 7]] = 1
    columns[:, 5] = 1
    few[4, 4], few[9, 30] = 1, 2
    many.view(-1)[::3] = 1
    expected = {"rows": (rows, 2 * (4 + 80)), "columns": (columns, 4 + 100)}
    expected |= {"entries": (few, 2 * (4 + 2)), "mask": (many, 250 + 2 * 667)}
    expected |= {"same": (old.clone(), 0), "whole": (old + 1, 4000)}
    for form, (new, size) in expected.items():
        found = difference(new, old)
        assert (found.form, found.packed.numel()) == (form, size)
    with pytest.raises(ValueError, match="nothing to apply"):
        applied(
            Difference("rows", 0, torch.empty(0, dtype=torch.uint8)), None, old.shape, old.dtype
        )


def test_bits_are_compared_not_values() -> None:
    old, new = torch.tensor([0.0, float("nan"), 1.0]), torch.tensor([-0.0, float("nan"), 1.0])
    assert difference(new, old).count == 1
    assert difference(old.clone(), old).form == "same"


def published(model: torch.nn.Module, folder: Path, base: Path | None, **saving: str) -> Path:
    """A folder as stages leave it, as the difference to `base` where one is given."""
    temporary = folder.with_name(f".{folder.name}")
    model.save_pretrained(temporary, **saving)  # type: ignore[operator]
    byte_tokenizer().save_pretrained(temporary)
    shrink = None if base is None else shrinking(str(base), folder)
    publish_folder(temporary, folder, None, shrink)
    return folder


def moved(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """A third of the rows of each matrix changed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight[torch.rand(weight.shape[0]) < 0.3] += 1
    return model


def test_a_chain_of_folders_in_parts_is_made_whole_byte_for_byte(tmp_path: Path) -> None:
    """Of a base in another dtype; the second folder is the difference to the first one's."""
    base = tmp_path / "base"
    tiny_model(dtype=torch.bfloat16).save_pretrained(base)
    model = tiny_model(dtype=torch.bfloat16).float()
    chain = [base]
    for number in (1, 2):
        moved(model, number)
        saving = {"max_shard_size": "60KB"}
        whole = published(model, tmp_path / f"whole-{number}", None, **saving)
        delta = published(model, tmp_path / f"delta-{number}", chain[-1], **saving)
        chain.append(delta)
        names = {path.name for path in whole.glob("*.safetensors")}
        assert len(names) > 1 and not names & {path.name for path in delta.iterdir()}
        assert sha256_file(delta / "manifest.json") == sha256_file(whole / "manifest.json")
        sizes = [sum(f.stat().st_size for f in d.glob("*.safetensors")) for d in (delta, whole)]
        assert sizes[0] < 0.4 * sizes[1]
        made = tmp_path / f"made-{number}"
        made.mkdir()
        write_whole(delta, made)
        for file in made.iterdir():
            assert file.read_bytes() == (whole / file.name).read_bytes(), file
        stored = StoredTensors(delta)
        for part in names:
            for name, value in load_file(whole / part).items():
                assert torch.equal(stored.get(name), value)
    verify_folder(chain[2])
    make_whole(chain[2])
    shutil.rmtree(chain[1])
    verify_folder(chain[2])
    assert {f.name for f in chain[2].iterdir()} == {f.name for f in whole.iterdir()}


def test_layers_that_moved_are_found_by_their_bits(tmp_path: Path) -> None:
    old, new = tiny_model(layers=2), tiny_model(layers=3, seed=1)
    old.save_pretrained(tmp_path / "base")
    for source, target in ((0, 0), (1, 2)):
        state = old.model.layers[source].state_dict()
        new.model.layers[target].load_state_dict(state)
    delta = published(new, tmp_path / "grown", tmp_path / "base")
    record = json.loads((delta / "delta.json").read_text())["weights"]["model.safetensors"]
    key = "model.layers.{}.mlp.up_proj.weight"
    entry = record["tensors"][key.format(2)]
    assert (entry["form"], entry["from"]) == ("same", key.format(1))
    check_whole(delta)


def test_what_is_not_smaller_stays_whole(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    folder = published(tiny_model(seed=1), tmp_path / "other", tmp_path / "base")
    assert (folder / "model.safetensors").exists() and not (folder / "delta.json").exists()


def test_a_tensor_that_is_read_alone_is_compared_with_its_checksum(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    delta = published(moved(tiny_model(), 1), tmp_path / "delta", tmp_path / "base")
    name = "model.layers.1.mlp.up_proj.weight"
    file = delta / "model.delta.safetensors"
    content = bytearray(file.read_bytes())
    stored = load_file(file)["tensor/" + name].numpy().tobytes()
    place = bytes(content).index(stored) + len(stored) - 1
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"up_proj.weight is not as it was saved"):
        StoredTensors(delta).get(name)
    with pytest.raises(RunError, match="checksum differs"):
        check_whole(delta)

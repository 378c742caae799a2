"""Split models have the weights of the files, and no process ever has more than it must."""

from __future__ import annotations

import ctypes
import gc
import json
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from cl_bench.costs.shapes import shapes_of
from cl_bench.costs.split import split_total
from cl_bench.costs.total import total
from cl_bench.experiment.processes import join
from cl_bench.methods.sft import SFT
from cl_bench.models.load import load_model
from cl_bench.training import split_load
from cl_bench.training.sharding import is_split, own_part, whole
from cl_bench.training.split_load import SplitLoad
from tests.helpers.architectures import tiny
from tests.helpers.launching import launched
from tests.helpers.tiny import byte_tokenizer, tiny_model

IDS = torch.arange(3, 12).view(1, -1)


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def in_two_processes(folder: Path, work: Callable[[SplitLoad], None]) -> None:
    """`work` in each of them; in processes of their own, which alone are connected."""

    def begin(rank: int) -> int:
        try:
            processes, device = join()
            assert torch.distributed.get_world_size() == 2
            work(SplitLoad(device, processes.world))
        except Exception:
            traceback.print_exc()
            return 1
        return 0

    ended = launched(folder, begin, 2, environment={"ACCELERATE_USE_CPU": "true"})
    assert [one.code for one in ended] == [0, 0], "".join(one.err[-3000:] for one in ended)


def same_as_whole(load: SplitLoad, folder: Path, dtype: str) -> None:
    """Weights, buffers and what the model computes are those of `load_model`, bit for bit."""
    plain, _ = load_model(folder, dtype)
    split, tokenizer = load(folder, dtype)
    assert tokenizer.pad_token is not None and split.config.name_or_path == str(folder)
    parameters, others = dict(plain.named_parameters()), dict(split.named_parameters())
    assert parameters.keys() == others.keys()
    for name, value in parameters.items():
        assert is_split(others[name]) == (value.dim() > 1), name
        torch.testing.assert_close(whole(others[name]).data, value.data, rtol=0, atol=0)
    buffers, others = dict(plain.named_buffers()), dict(split.named_buffers())
    assert buffers.keys() == others.keys()
    for name, value in buffers.items():
        torch.testing.assert_close(others[name], value, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(split(IDS).logits, plain(IDS).logits, rtol=0, atol=0)


def whole_loads() -> list[str]:
    """From now on the folders of which the whole model is loaded for its rows."""
    found: list[str] = []

    def counted(path: Any, dtype: str) -> Any:
        found.append(str(path))
        return load_model(path, dtype)

    split_load.load_model = counted
    return found


def test_weights_are_those_of_the_files(tmp_path: Path) -> None:
    """Saved in float64: each is rounded to the run's dtype as `load_model` rounds it."""
    kinds = ("llama", "gpt2", "gpt_neox", "phi3", "falcon")
    folders = [saved(tiny(kind), tmp_path / kind) for kind in kinds]
    tied = tiny_model(kind="qwen2", tie=True, dtype=torch.float64)
    folders.append(saved(tied, tmp_path / "tied"))

    def work(load: SplitLoad) -> None:
        loads = whole_loads()
        for folder in folders:
            for dtype in ("float32", "bfloat16"):
                same_as_whole(load, folder, dtype)
        assert {Path(path).name for path in loads} == {"gpt_neox"}, "embed_out in its files"

    in_two_processes(tmp_path, work)


def test_other_files_than_the_models_own(tmp_path: Path) -> None:
    """Without the name of the base model, as GPT-2's first files are; and in torch's format."""
    one, other = (saved(tiny("gpt2"), tmp_path / name) for name in ("bare", "pickled"))
    base = AutoModelForCausalLM.from_pretrained(one).base_model
    base.save_pretrained(one)
    (other / "model.safetensors").unlink()
    torch.save(dict(base.state_dict()), other / "pytorch_model.bin")

    def work(load: SplitLoad) -> None:
        loads = whole_loads()
        for folder in (one, other):
            same_as_whole(load, folder, "float32")
        assert loads == [str(other)]

    in_two_processes(tmp_path, work)


def anonymous() -> int:
    """Bytes of main memory of this process that are of no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def settled() -> int:
    """The same without what is freed, which would be used again unseen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return anonymous()


def without_free_memory(model: Any) -> list[torch.Tensor]:
    """To be kept while memory is measured: what earlier tests have freed would be used again."""
    sizes = [parameter.numel() for parameter in model.parameters()] * 2
    return [torch.ones(size, dtype=torch.float64) for size in sizes]


def measured(work: Callable[[], Any]) -> tuple[Any, int, int]:
    """What `work` gives; how many bytes more it had at its fullest, as far as seen, and has."""
    before, most, done = settled(), [0], threading.Event()

    def look() -> None:
        while not done.wait(0.0005):
            most[0] = max(most[0], anonymous() - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        made = work()
    finally:
        done.set()
        thread.join()
    return made, max(most[0], anonymous() - before), settled() - before


def test_no_process_has_the_whole_model(tmp_path: Path) -> None:
    """The weights that it has are what `plan` counts, within 5 %, and so is its main memory.

    With one layer that is put together: at the fullest moment twice, as FSDP2 copies it.
    """
    sizes = {"vocab_size": 2048, "hidden_size": 512, "intermediate_size": 1408}
    config = LlamaConfig(**sizes, num_hidden_layers=10, num_attention_heads=8)
    model = LlamaForCausalLM(config)
    shapes = shapes_of(model)
    folder = saved(model, tmp_path / "model")
    small = saved(tiny_model(), tmp_path / "small")

    def work(load: SplitLoad) -> None:
        kept = without_free_memory(model)
        load(small, "float32")  # whatever is imported and made only once
        (split, _), peak, left = measured(lambda: load(folder, "float32"))
        held = sum(own_part(parameter).nbytes for parameter in split.parameters())
        rank = torch.distributed.get_rank()
        assert kept
        (tmp_path / f"{rank}.json").write_text(json.dumps([held, peak, left]))

    in_two_processes(tmp_path, work)
    both = split_total(total(SFT(), shapes), shapes, 2).base
    layer = 4 * (4 * 512**2 + 3 * 512 * 1408)
    gathered = both.weights - (shapes.model_bytes + both.unsplit.weights) / 2
    for rank in range(2):
        held, peak, left = json.loads((tmp_path / f"{rank}.json").read_text())
        assert held == pytest.approx(both.weights - gathered, rel=0.05)
        assert 0.95 * held < left < 1.05 * (held + layer), "FSDP2 may keep the layer till the next"
        assert peak < 0.85 * shapes.model_bytes
    kept = without_free_memory(model)
    # In float64: where nothing is rounded, the weights are pages of the file.
    _, peak, _ = measured(lambda: load_model(folder, "float64"))
    assert 1.9 * shapes.model_bytes < peak < 2.1 * shapes.model_bytes, "whole, and never twice"
    assert kept


def test_a_model_for_another_device_is_read_straight_to_it(tmp_path, monkeypatch) -> None:
    folder = saved(tiny_model(), tmp_path / "model")
    places = []
    completed = load_model.__globals__["completed"]

    def seen(model: Any, *rest: Any) -> None:
        places.extend(parameter.device.type for parameter in model.parameters())
        completed(model, *rest)

    monkeypatch.setitem(load_model.__globals__, "completed", seen)
    load_model(folder, "float32", "meta")
    assert set(places) == {"meta"}

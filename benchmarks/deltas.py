"""How large a checkpoint is that stores only what differs, against a whole one.

    python benchmarks/deltas.py

Random weights in the shapes of SmolLM2-135M (bfloat16) and of the model that tests train (float32).
A share of them is changed, every chosen entry, as a stage does that trains all of it: rows or
entries of all matrices, or of those in the layers alone, and entries of all parameters. A file is
counted with the record beside it; seconds are wall clock, of writing and of making it whole again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cl_bench.models.deltas import check_whole, shrinking
from cl_bench.report.tables import Column, table
from cl_bench.store.folders import publish_folder

MODELS = {
    "SmolLM2-135M": (torch.bfloat16, 576, 1536, 30, 9, 3, 49152, True),
    "tests' model": (torch.float32, 32, 64, 2, 4, 2, 259, False),
}
CHANGES = {
    "30 % of the rows of all matrices": ("rows", 0.3, ""),
    "30 % of the rows of the layers' matrices": ("rows", 0.3, "layers"),
    "30 % of the columns of the layers' matrices": ("columns", 0.3, "layers"),
    "30 % of the entries of all matrices": ("entries", 0.3, ""),
    "0.1 % of all entries": ("entries", 0.001, ""),
}


def model_of(name: str) -> LlamaForCausalLM:
    """A random one of these shapes."""
    dtype, hidden, inner, layers, heads, groups, vocabulary, tied = MODELS[name]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(dtype)


def change(model: LlamaForCausalLM, kind: str, share: float, where: str) -> None:
    """Another value for that share of every parameter that is meant."""
    for name, weight in model.named_parameters():
        if where not in name or (share > 0.01 and weight.ndim < 2):
            continue
        shape = {"rows": (weight.shape[0], 1), "columns": (1, weight.shape[-1])}
        chosen = torch.rand(shape.get(kind, weight.shape))
        quantile = chosen.flatten().kthvalue(max(1, round(share * chosen.numel()))).values
        with torch.no_grad():
            weight.add_((chosen <= quantile) * weight.abs().clamp_min(1e-3))


def measured(name: str, folder: Path, kind: str, share: float, where: str) -> list[str]:
    """Bytes of both forms, their ratio, seconds."""
    model = model_of(name)
    model.save_pretrained(folder / "base")
    change(model, kind, share, where)
    model.save_pretrained(folder / ".new")
    began = time.perf_counter()
    shrink = shrinking(str(folder / "base"), folder / "new")
    publish_folder(folder / ".new", folder / "new", None, shrink)
    written = time.perf_counter()
    check_whole(folder / "new")
    made = time.perf_counter()
    whole = (folder / "base" / "model.safetensors").stat().st_size
    parts = [*(folder / "new").glob("*.delta.safetensors"), folder / "new" / "delta.json"]
    delta = sum(part.stat().st_size for part in parts)
    sizes = [f"{size / 1e6:.3f}" for size in (whole, delta)]
    return [*sizes, f"{delta / whole:.3f}", f"{written - began:.1f}", f"{made - written:.1f}"]


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    rows = []
    for name in MODELS:
        for title, (kind, share, where) in CHANGES.items():
            with tempfile.TemporaryDirectory() as folder:
                rows.append([name, title, *measured(name, Path(folder), kind, share, where)])
    columns = [Column("model", "left"), Column("changed", "left")]
    columns += map(Column, ("whole, MB", "delta, MB", "ratio", "write, s", "make again, s"))
    print("\n".join(table(columns, rows)))


if __name__ == "__main__":
    main()

"""What the step and Fisher benchmarks share: models, batches, alternating timing, rates, tables.

Every contestant has processes of its own, set up as its users set it up (ours keeps freed memory,
as `cl-bench run` does). They take turns, and only the one whose turn it is exists: none shares the
machine's memory or cores with another.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn

BATCH, ANSWERS, RHO = 8, 16, 0.3
MODELS = ("smollm2-135m", "qwen2-0.22b")
DEVICE = "CL_BENCH_BENCHMARK_DEVICE"
"""The environment variable by which a contestant's process knows where it computes."""


def arguments(description: str) -> argparse.ArgumentParser:
    """Options both benchmarks have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--lengths", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--layers", type=int, help="cut the models to this many layers")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--budget",
        type=float,
        default=600.0,
        help="seconds of one contestant's steps: slow ones get fewer repetitions (column n)",
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="where all of them compute, such as cuda")
    parser.add_argument("--only", nargs="+", help="contestants whose name contains one of these")
    return parser


def begin(options: argparse.Namespace) -> None:
    """Heed `--threads` and `--device`, here and in the contestants' processes."""
    torch.set_num_threads(options.threads)
    os.environ[DEVICE] = options.device


def device() -> torch.device:
    """Where contestants compute."""
    return torch.device(os.environ.get(DEVICE, "cpu"))


def finished() -> None:
    """Wait for what was given to an accelerator, which computes by itself."""
    if device().type == "cuda":
        torch.cuda.synchronize()


def load(name: str, dtype: torch.dtype, layers: int | None = None) -> nn.Module:
    """SmolLM2-135M from the user's cache, or a random Qwen2 of 0.22 B parameters (hidden 896)."""
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

    if name == "smollm2-135m":
        from cl_bench.models.quickstart import quickstart_model

        options = {} if layers is None else {"num_hidden_layers": layers}
        found = AutoModelForCausalLM.from_pretrained(quickstart_model(), dtype=dtype, **options)
        return found.to(device())
    config = Qwen2Config(
        vocab_size=49152,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers or 12,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config).to(device(), dtype)


def batch_of(length: int, vocabulary: int = 49152, samples: int = BATCH) -> dict[str, Tensor]:
    """`samples` random sequences without padding; the last 16 tokens are the answer."""
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(3, vocabulary, (samples, length), generator=generator).to(device())
    labels = ids.clone()
    labels[:, : length - ANSWERS] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@dataclass
class Contestant:
    """One row: `run(n)` does a step to warm up, then n, and returns the seconds of those."""

    name: str
    run: Callable[[int], list[float]]
    dtype: str
    gflop: float
    state_bytes: Callable[[], int] = lambda: 0
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Median seconds of a step."""
        return statistics.median(self.seconds)


def timed(step: Callable[[], object]) -> Callable[[int], list[float]]:
    """`run` of a contestant whose steps are plain calls."""

    def run(count: int) -> list[float]:
        step()
        finished()
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            step()
            finished()
            seconds.append(time.perf_counter() - start)
        return seconds

    return run


def in_process(make: Callable[[], Contestant], threads: int) -> Contestant:
    """The contestant that `make` (picklable) builds anew for each `run`, in a process that ends.

    Name, dtype and GFLOP are known after the first. Raises RuntimeError if the process dies.
    """
    context = multiprocessing.get_context("spawn")
    held = [0]

    def run(count: int) -> list[float]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_turn, args=(make, threads, count, theirs), daemon=True)
        process.start()
        theirs.close()
        try:
            contestant.name, contestant.dtype, contestant.gflop, seconds, held[0] = ours.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"{make}: its process ended with {process.exitcode}") from None
        process.join()
        return list(seconds)

    contestant = Contestant("", run, "", 0.0, lambda: held[0])
    return contestant


def _turn(
    make: Callable[[], Contestant], threads: int, count: int, pipe: Connection[Any, Any]
) -> None:
    torch.set_num_threads(threads)
    made = make()
    seconds = made.run(count)
    pipe.send((made.name, made.dtype, made.gflop, seconds, made.state_bytes()))


def race(contestants: Sequence[Contestant], repeats: int, budget: float) -> None:
    """Rounds in which everyone does four steps, until all have `repeats` or used their seconds."""

    def turn(contestant: Contestant) -> int:
        left = budget - sum(contestant.seconds)
        return 0 if left <= 0 else min(4, repeats - len(contestant.seconds))

    while turns := [(contestant, n) for contestant in contestants if (n := turn(contestant)) > 0]:
        for contestant, count in turns:
            contestant.seconds += contestant.run(count)


def matrix_gflop(model: nn.Module, length: int, share: float, head_positions: int) -> float:
    """GFLOP of one step's matrix products: forward, input gradients, `share` of weight gradients.

    Block matrices see every token, the head `head_positions` tokens. Attention's own products are
    counted over the whole square: 2 in forward, 4 in backward, recomputation not counted.
    """
    config, tokens = model.config, BATCH * length
    head = config.vocab_size * config.hidden_size
    blocks = sum(p.numel() for n, p in model.named_parameters() if p.dim() == 2) - head
    attention = (
        config.num_attention_heads * length**2 * (config.hidden_size // config.num_attention_heads)
    )
    products = tokens * blocks * (4 + 2 * share) + BATCH * 12 * attention * config.num_hidden_layers
    head_share = 6 if share == 1 else 4
    return (products + head_positions * head * head_share) / 1e9


def matrix_rate(model: nn.Module, length: int, dtype: torch.dtype) -> float:
    """GFLOP/s of products of the model's MLP shape, the best of 5: the machine's floor."""
    config, tokens = model.config, BATCH * length
    x = torch.randn(tokens, config.hidden_size).to(device(), dtype)
    w = torch.randn(config.intermediate_size, config.hidden_size).to(device(), dtype)
    seconds = min(timed(lambda: x @ w.t())(5))
    return 2 * x.numel() * w.shape[0] / seconds / 1e9


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def machine() -> str:
    """One line about where the figures come from."""
    from pathlib import Path

    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if "model name" in line]
        if info.exists()
        else []
    )
    name = names[0].split(":")[1].strip() if names else platform.processor()
    load = os.getloadavg()[0]
    if device().type == "cuda":
        name = f"{torch.cuda.get_device_name()}; {name}"
    return (
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}, load {load:.1f}"
    )

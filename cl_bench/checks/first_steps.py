"""What `cl-bench init` asks of the machine: a dtype, a rate, and which benchmarks can be had."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cl_bench.checks.machine import SLOW, benchmarks_here, hub_silence, product_rates
from cl_bench.config.budgets import TRACE_GENERAL
from cl_bench.config.dtypes import Dtype
from cl_bench.data.sources import resolve_data_root

GENERATED = ("mini_mmlu", "mini_piqa", "mini_bbh", "mini_tydiqa", "mini_gsm8k")
"""Benchmarks that need no data: they show that something is lost, not how much of what."""
SUSTAINED = 0.5
"""Part of the rate of single products that training and scoring reach."""


@dataclass(frozen=True)
class Machine:
    """What a first config is fitted to."""

    dtype: Dtype
    flops: float
    """Sustained FLOP/s in that dtype."""
    general: tuple[str, ...]
    """Benchmarks whose data is here or can be fetched."""


def look_around(tflops: float | None, data_root: Path | None) -> Machine:
    """Measures products for a second; `tflops` stands for the rate where it is given."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    whole, half = product_rates(device)
    dtype: Dtype = "float32" if half < SLOW * whole else "bfloat16"
    rate = SUSTAINED * max(whole if dtype == "float32" else half, 1e-3) * 1e9
    here = benchmarks_here(resolve_data_root(data_root))
    offline = any(os.environ.get(n, "0") != "0" for n in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"))
    fetched = len(here) < len(TRACE_GENERAL) and not offline and hub_silence() is None
    general = tuple(TRACE_GENERAL if fetched else here) or GENERATED
    return Machine(dtype, rate if tflops is None else tflops * 1e12, general)

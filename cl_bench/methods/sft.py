"""Sequential fine-tuning: every parameter is trained on every stage. The lower baseline."""

from __future__ import annotations

from cl_bench.methods.base import Method


class SFT(Method):
    """Plain sequential fine-tuning (TRACE's SeqFT): the contract's defaults, nothing else."""

    name = "sft"
    family = "fine-tuning"
    splits = True
    source = "TRACE's SeqFT, arXiv 2310.06762"

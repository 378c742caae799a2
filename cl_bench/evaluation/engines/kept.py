"""A process of an engine that stays from one scoring to the next, and is given new weights.

Starting vLLM takes longer than scoring a stage often does. Where an engine can take the weights of
another checkpoint (running_vllm.py), one process serves all stages of a run; others, and all with
`engine.keep: false`, are started for each scoring and ended after it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psutil

from cl_bench.errors import RunError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.remote import RemoteLM
from cl_bench.evaluation.shared_prefix.lm import Progress

TAKES_WEIGHTS = ("vllm", "vllm-vlm")
"""Engines that `running_vllm.py` knows how to give weights to."""
KEYS_SHARE = 0.25
"""Of free main memory, for keys and values of vLLM on a CPU, unless the user says how much."""
KEYS_BYTES = 4 * 2**30
"""At most so much of it."""
KEYS_ARGUMENTS = {"kv_cache_memory_bytes", "gpu_memory_utilization"}
KEYS_VARIABLE = "VLLM_CPU_KVCACHE_SPACE"
"""Where a user says how much."""
SLEEPS_ON = ("cuda",)
"""Devices whose memory vLLM can give back without ending."""


class Kept:
    """At most one process that is not in use. `close` ends it; so does leaving the `with` block."""

    def __init__(self) -> None:
        self._idle: RemoteLM | None = None
        self._log: IO[bytes] | None = None
        self._loaded: tuple[Any, ...] | None = None
        self._able = True

    def __enter__(self) -> Kept:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def serving(
        self,
        engine: Engine,
        folder: Path,
        model: Any,
        tokenizer: Any,
        device: str,
        defaults: Mapping[str, Any],
        progress: Progress | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Iterator[RemoteLM]:
        """An `LM` over the weights in `folder`, which are those of `model`, in a process.

        `device`: the kind that the model trains on. Raises RunError when the process fails. After
        any error it is not kept.
        """
        wanted = (engine, defaults["dtype"], _form(model, tokenizer))
        lm, self._idle = self._idle, None
        if lm is not None and not self._takes(lm, wanted, folder, say):
            self._end(lm)
            lm = None
        if lm is None:
            self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
            lm = RemoteLM(engine, folder, defaults, tokenizer, self._log)
        lm.progress = progress
        try:
            yield lm
            if self._able and keeps(engine, device, lm.sleeps):
                lm.rest()
                self._idle, self._loaded = lm, wanted
        finally:
            if self._idle is None:
                self._end(lm)

    def close(self) -> None:
        """End the process that waits, if there is one."""
        lm, self._idle = self._idle, None
        if lm is not None:
            self._end(lm)

    def _end(self, lm: RemoteLM) -> None:
        lm.close()
        if self._log is not None:
            self._log.close()
        self._log = None

    def _takes(
        self,
        lm: RemoteLM,
        wanted: tuple[Any, ...],
        folder: Path,
        say: Callable[[str], None] | None,
    ) -> bool:
        """Have a process that waited answer with these weights; whether it could."""
        if self._loaded != wanted:
            return False
        try:
            lm.take_weights(folder)
        except RunError as error:
            self._able = False
            if say is not None:
                say(f"started anew for every scoring from here on: {error}")
            return False
        return True


def keeps(engine: Engine, device: str, sleeps: bool) -> bool:
    """Whether a process may wait while the model trains on this kind of device.

    On an accelerator only one that gives the memory back; main memory it holds until it ends.
    """
    # With data_parallel_size lm-eval starts vLLM for every call.
    single = int(engine.args.get("data_parallel_size", 1)) == 1
    return engine.keep and engine.name in TAKES_WEIGHTS and single and (sleeps or device == "cpu")


def vllm_defaults(engine: Engine, device: str) -> dict[str, Any]:
    """Arguments of vLLM whose own defaults are wrong beside a model in training.

    On a CPU it would ask for 92 % of all memory, and not start where less is free.
    """
    if engine.name not in TAKES_WEIGHTS:
        return {}
    if device in SLEEPS_ON:
        return {"enable_sleep_mode": True} if engine.keep else {}
    if device != "cpu" or KEYS_VARIABLE in os.environ or engine.args.keys() & KEYS_ARGUMENTS:
        return {}
    share = int(KEYS_SHARE * psutil.virtual_memory().available)
    return {"kv_cache_memory_bytes": min(share, KEYS_BYTES)}


def _form(model: Any, tokenizer: Any) -> tuple[str, int]:
    """What two models have in common of which one can take the other's weights."""
    config = model.config.to_dict()
    names = {key: value for key, value in config.items() if key != "_name_or_path"}
    return json.dumps(names, sort_keys=True, default=str), len(tokenizer)

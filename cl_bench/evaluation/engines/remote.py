"""An lm-evaluation-harness `LM` whose model lives in another process, loaded from a folder."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any

from lm_eval.api.model import LM

from cl_bench.errors import RunError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.other_python import environment
from cl_bench.evaluation.engines.request_counts import EncodePrompts, RequestCounts
from cl_bench.evaluation.shared_prefix.lm import Progress
from cl_bench.models.load import split_revision

WORKER = Path(__file__).with_name("worker.py")
"""Started as a file: the Python that runs it need not have cl-bench."""
LAST_LINES = 12
"""Of the worker's stderr, in the message when it fails."""
ALIVE_SECONDS = 1.0
"""How often a worker that is at work is looked after."""
END_SECONDS = 5.0
"""How long a worker may take to end by itself."""


class RemoteLM(LM):  # type: ignore[misc]
    """Hands requests to a worker (worker.py); `close` ends it.

    Tasks, prompts and scores stay here, only requests and answers travel. Raises RunError with the
    end of the worker's stderr when it fails.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        defaults: Mapping[str, Any],
        tokenizer: Any,
        log: IO[bytes],
        progress: Progress | None = None,
    ) -> None:
        """`folder`: a whole model and its tokenizer. `defaults` of the engine's own arguments.

        `log` takes what the worker writes; it must be readable.
        """
        super().__init__()
        self.engine, self.tokenizer, self.progress = engine, tokenizer, progress
        self.encode_prompts: EncodePrompts | None = None
        self.counters, self._told = RequestCounts(), RequestCounts()
        self._log = log
        parent = str(os.getpid())
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [engine.python or sys.executable, str(WORKER), str(theirs.fileno()), parent],
                env=None if engine.python is None else environment(),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,  # Ctrl-C comes to us alone; `close` ends the worker
            )
        self._connection: Connection[Any, Any] = Connection(ours.detach())
        name, revision = split_revision(str(folder))
        model = {"pretrained": name} | ({} if revision is None else {"revision": revision})
        arguments = {**defaults, **engine.arguments, **model}
        self.sleeps = bool(arguments.get("enable_sleep_mode"))
        try:
            self._exchange((engine.name, arguments))
        except BaseException:
            self.close()
            raise

    def loglikelihood(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """As the engine's own."""
        return self._ask("loglikelihood", [request.args for request in requests])

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """As the engine's own."""
        return self._ask("loglikelihood_rolling", [request.args for request in requests])

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """As the engine's own; a prompt that is too long for the run is cut before."""
        texts = self._cut([request.args[0] for request in requests])
        asked = [
            (text, _as_asked(request.args[1]), *request.args[2:])
            for text, request in zip(texts, requests, strict=True)
        ]
        return self._ask("generate_until", asked)

    def take_weights(self, folder: Path) -> None:
        """Answer with those of another folder from here on; for engines that can."""
        self._exchange(("take_weights", (str(folder),)))

    def rest(self) -> None:
        """Nothing is asked for some time: give memory back, where the engine can."""
        self._exchange(("rest", ()))

    @cached_property
    def max_length(self) -> int:
        """The engine's window in tokens."""
        return int(self._exchange(("max_length", None)))

    def tok_encode(self, string: str) -> list[int]:
        """Token ids as the engine makes them."""
        return list(self._exchange(("tok_encode", (string,))))

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        return self._ask("_loglikelihood_tokens", list(requests))

    def _cut(self, texts: Sequence[str]) -> list[str]:
        """Text again after cutting tokens, where tokens were cut: engines take no token ids."""
        if self.encode_prompts is None:
            return list(texts)
        kept = self.encode_prompts(texts)
        whole = [self.tokenizer.encode(text) for text in texts]
        return [
            text if len(ids) >= len(every) else self.tokenizer.decode(ids, skip_special_tokens=True)
            for text, ids, every in zip(texts, kept, whole, strict=True)
        ]

    def _ask(self, method: str, asked: list[Any]) -> list[Any]:
        if self.progress is not None:
            self.progress(method, 0, len(asked))
        answers: list[Any] = self._exchange((method, (asked,)))
        if self.progress is not None:
            self.progress(method, len(asked), len(asked))
        return answers

    def _exchange(self, message: tuple[Any, ...]) -> Any:
        try:
            self._connection.send(message)
            # What a worker has started may hold the socket open after its end.
            while not self._connection.poll(ALIVE_SECONDS):
                if self._process.poll() is not None and not self._connection.poll():
                    raise EOFError
            answer, told = self._connection.recv()
            self.counters.add(told, self._told)
            self._told = told
            return answer
        except (EOFError, OSError):
            self.close()
            raise RunError(
                f"--engine {self.engine}: its process {self._end()}; the last lines it wrote:\n"
                f"{self._last_lines()}"
            ) from None

    def _end(self) -> str:
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return (
                "was killed (SIGKILL), perhaps for want of memory; what is complete is kept: run "
                "the same command again to go on"
            )
        return f"ended with exit code {code}"

    def _last_lines(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])

    def close(self) -> None:
        """End the worker, with whatever it started."""
        self._connection.close()
        try:
            self._process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:  # also at a second Ctrl-C
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _as_asked(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy where sampling is not asked for, as with `HFLM`.

    lm-eval 0.4.13 leaves the temperature out then, and its vLLM class samples at 1.
    """
    if kwargs.get("do_sample") or float(kwargs.get("temperature") or 0.0) > 0:
        return dict(kwargs)
    return {**kwargs, "do_sample": False, "temperature": 0.0}

"""The process in which another engine loads a checkpoint and answers: `remote.py` starts it.

    python .../cl_bench/evaluation/engines/worker.py FD PARENT

FD is a socket inherited from the process PARENT. The first message is `(name, arguments)` of a
model class in lm-eval's registry; each one after it is `(attribute, arguments or None)` of the
model or of `running_vllm.py`, answered with the attribute or what calling it returned, and the
counts of requests so far (`RequestCounts`). It ends when the parent closes its side, and within a
second of the parent's end, even in the middle of an answer, with whatever it has started. An error
ends it with a traceback on stderr, of which the parent shows the last lines.

The Python that runs it may be another than the parent's, one that has lm-eval but neither cl-bench
nor what cl-bench needs: no module that is imported here may need more than lm-eval does.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2]
"""The folder of cl-bench's own modules."""
LOOK_SECONDS = 1.0
"""How often the worker looks whether its parent is there."""
REQUEST_TYPES = ("loglikelihood", "loglikelihood_rolling", "generate_until")
OF_VLLM = "vllm"
"""How its classes are called."""
OF_RUNNING = ("take_weights", "rest")
"""Messages that are for `running_vllm.py`."""


def answer(lm: Any, attribute: str, arguments: tuple[Any, ...] | None) -> Any:
    """The attribute's value, or its result; requests come as the tuples of their arguments."""
    from lm_eval.api.instance import Instance

    if attribute in OF_RUNNING:
        from cl_bench.evaluation.engines import running_vllm

        return getattr(running_vllm, attribute)(lm, *(arguments or ()))
    found = getattr(lm, attribute)
    if arguments is None:
        return found
    if attribute in REQUEST_TYPES:
        asked = [Instance(attribute, {}, args, i) for i, args in enumerate(arguments[0])]
        return found(asked)
    return found(*arguments)


def end_with(parent: int) -> None:
    """Kill this process's group once `parent` is gone: nobody waits for an answer any more."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.killpg(0, signal.SIGKILL)


def end_without(is_dead: Callable[[], bool]) -> None:
    """End this process once what computes for it is dead, should nothing else have ended it."""
    while not is_dead():
        time.sleep(LOOK_SECONDS)
    time.sleep(LOOK_SECONDS)
    print("the process that computes for this one has ended", file=sys.stderr, flush=True)
    os._exit(1)


def model_class(name: str) -> Any:
    """Of lm-eval's registry; what generates as `HFLM` does marks texts that mean nothing."""
    from lm_eval.api.registry import get_model

    found = get_model(name)
    if not any(each.__name__ == "HFLM" for each in found.__mro__):
        return found
    from cl_bench.evaluation.finite import watched

    return watched(found)


def main(fd: int, parent: int) -> None:
    """Serve until the parent hangs up. The process leads a group of its own."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    from cl_bench.evaluation.engines import running_vllm
    from cl_bench.evaluation.engines.request_counts import count_requests

    connection: Connection[Any, Any] = Connection(fd)
    name, arguments = connection.recv()
    if name.startswith(OF_VLLM):
        running_vllm.prepare()
    lm = model_class(name)(**arguments)
    if name.startswith(OF_VLLM):
        watch = partial(running_vllm.is_dead, lm)
        threading.Thread(target=end_without, args=(watch,), daemon=True).start()
    asked = count_requests(lm, name)
    connection.send((None, asked))
    while True:
        try:
            attribute, given = connection.recv()
        except EOFError:
            return
        connection.send((answer(lm, attribute, given), asked))


def find_own_modules() -> None:
    """Make `cl_bench` importable from `PACKAGE`, and nothing else that lies beside it.

    Neither this file's folder, which Python has put first, nor the folder that holds cl-bench may
    be searched: they have modules and packages that are not for this Python.
    """
    here = Path(__file__).resolve().parent
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != here]
    spec = importlib.util.spec_from_file_location(
        PACKAGE.name, PACKAGE / "__init__.py", submodule_search_locations=[str(PACKAGE)]
    )
    assert spec is not None and spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE.name] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    find_own_modules()
    main(int(sys.argv[1]), int(sys.argv[2]))

"""The process in which another engine loads a checkpoint and answers: `remote.py` starts it.

    python -m cl_bench.evaluation.engines.worker FD PARENT

FD is a socket inherited from the process PARENT. The first message is `(name, arguments)` of a
model class in lm-eval's registry; each one after it is `(attribute, arguments or None)` of the
model, answered with the attribute or what calling it returned, and the counts of requests so far
(`Asked`). It ends when the parent closes its side, and within a second of the parent's end, even in
the middle of an answer, with whatever it has started. An error ends it with a traceback on stderr,
of which the parent shows the last lines.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any

LOOK_SECONDS = 1.0
"""How often the worker looks whether its parent is there."""
REQUEST_TYPES = ("loglikelihood", "loglikelihood_rolling", "generate_until")


def answer(lm: Any, attribute: str, arguments: tuple[Any, ...] | None) -> Any:
    """The attribute's value, or its result; requests come as the tuples of their arguments."""
    from lm_eval.api.instance import Instance

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


def main(fd: int, parent: int) -> None:
    """Serve until the parent hangs up. The process leads a group of its own."""
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    from lm_eval.api.registry import get_model

    from cl_bench.evaluation.engines.request_counts import count_requests
    from cl_bench.evaluation.finite import watched

    connection: Connection[Any, Any] = Connection(fd)
    name, arguments = connection.recv()
    lm = watched(get_model(name))(**arguments)
    asked = count_requests(lm, name)
    connection.send((None, asked))
    while True:
        try:
            attribute, given = connection.recv()
        except EOFError:
            return
        connection.send((answer(lm, attribute, given), asked))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

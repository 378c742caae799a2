"""One HTTP transfer into one file: continued where it stopped, tried again where that can help."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from cl_bench.data.rows import MAX_FILE

_BLOCK = 1 << 18
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
_OF_THIS_MACHINE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)

OnBytes = Callable[[int, int | None], None]
"""Called with the bytes there and the size (None if the server does not say)."""


class TransferError(Exception):
    """A transfer that failed; `passing` if another attempt could help."""

    def __init__(self, reason: str, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


@dataclass(frozen=True)
class Patience:
    """How a download deals with a bad network. Seconds; the pause doubles with each attempt."""

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 60.0


def receive(
    url: str,
    part: Path,
    patience: Patience,
    on_bytes: OnBytes,
    check: Callable[[bool], None] = lambda resumed: None,
) -> None:
    """Completes `part` with the rest of `url`.

    `check` is called with whether bytes from before were kept, and raises TransferError if the
    file is not what it should be. Raises TransferError when the attempts are used up, or at once
    when waiting would not help (404, no space left).
    """
    for attempt in range(1, patience.attempts + 1):
        try:
            start = _transfer(url, part, patience.timeout, on_bytes)
            check(start > 0)
            return
        except TransferError as error:
            if not error.passing or attempt == patience.attempts:
                raise
            time.sleep(patience.pause * 2 ** (attempt - 1))


def _transfer(url: str, part: Path, timeout: float, on_bytes: OnBytes) -> int:
    """Appends the rest of `url` to `part` and returns the byte it went on from."""
    start = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"User-Agent": "cl-bench", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urlopen(request, timeout=timeout) as response:
            if start and not _continues(response, start):
                start = 0
            _store(response, part, start, on_bytes)
        return start
    except HTTPError as error:
        error.close()
        if error.code == 416:  # nothing after what is there: the check decides whether it is whole
            return start
        reason = f"the server answered {error.code} {error.reason}"
        raise TransferError(reason, error.code in _PASSING) from error
    except (HTTPException, OSError, ValueError) as error:
        local = isinstance(error, OSError) and error.errno in _OF_THIS_MACHINE
        passing = not isinstance(error, ValueError) and not local
        raise TransferError(f"{type(error).__name__}: {error}", passing) from error


def _continues(response: HTTPResponse, start: int) -> bool:
    """Whether the answer is the asked-for rest; a server may ignore Range and send everything."""
    content_range = response.headers.get("Content-Range", "")
    return response.status == 206 and content_range.startswith(f"bytes {start}-")


def _store(response: HTTPResponse, part: Path, start: int, on_bytes: OnBytes) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length is not None else None
    done = start
    with part.open("ab" if start else "wb") as file:
        while block := response.read(_BLOCK):
            file.write(block)
            done += len(block)
            on_bytes(done, total)
            if done > MAX_FILE:
                raise TransferError(f"more than {MAX_FILE:,} bytes", passing=False)
    if total is not None and done < total:
        raise TransferError(f"the connection ended after {done:,} of {total:,} bytes", True)

"""A local HTTP server that misbehaves on demand, and small files in TRACE's form."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import pytest

from cl_bench.corpora.registry import FOLDERS


@dataclass
class Site:
    """What the server serves and how it behaves; `requests` is its log of (path, Range header)."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    honours_range: bool = True
    sends_length: bool = True
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    """Per path: after how many body bytes the next answers break off."""
    statuses: dict[str, list[int]] = field(default_factory=dict)
    """Per path: status codes the next answers have."""


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = unquote(self.path)
            wanted = self.headers.get("Range")
            site.requests.append((path, wanted))
            if site.statuses.get(path):
                self.send_error(site.statuses[path].pop(0))
            elif path not in site.files:
                self.send_error(404)
            else:
                self._send(path, site.files[path], wanted)

        def _send(self, path: str, body: bytes, wanted: str | None) -> None:
            start = 0
            if wanted and site.honours_range:
                matched = re.fullmatch(r"bytes=(\d+)-", wanted)
                assert matched, wanted
                start = int(matched[1])
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            rest = body[start:]
            if site.sends_length:
                self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            cuts = site.cut_after.get(path)
            self.wfile.write(rest[: cuts.pop(0)] if cuts else rest)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    """A running server on 127.0.0.1."""
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def write_rows(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """A TRACE file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = [{"prompt": prompt, "answer": answer} for prompt, answer in rows]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_benchmark(folder: Path, tasks: Sequence[str] = FOLDERS, mark: str = "") -> None:
    """Task folders with three splits of two invented rows each; `mark` makes them different."""
    for task in tasks:
        for split in ("train", "eval", "test"):
            rows = [(f"{mark}{task} {split} {number}?", str(number)) for number in (1, 2)]
            write_rows(folder / task / f"{split}.json", rows)

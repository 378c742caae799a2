"""Three fingerprints of a data file: of its bytes (two ways) and of its examples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cl_bench.corpora.registry import KnownFile

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Checksum:
    """Fingerprints of a file's bytes. `size` in bytes; hashes as lower-case hex.

    `git_blob` is git's object id: SHA-1 over `blob <size>\\0` and the content.
    """

    size: int
    sha256: str
    git_blob: str

    def matches(self, known: KnownFile) -> bool:
        """Whether these are the known bytes: by sha256 where it is known, else by git blob id."""
        if known.sha256 is not None:
            return self.sha256 == known.sha256
        return known.git_blob is not None and self.git_blob == known.git_blob


def checksum_of_bytes(data: bytes) -> Checksum:
    """The fingerprints of bytes in memory."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return Checksum(len(data), hashlib.sha256(data).hexdigest(), blob.hexdigest())


def checksum_of_file(path: Path) -> Checksum:
    """The fingerprints of a file, read once in blocks. Raises OSError."""
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha256.update(block)
            blob.update(block)
    return Checksum(size, sha256.hexdigest(), blob.hexdigest())


def examples_digest(rows: Iterable[tuple[str, str]]) -> str:
    """128 bits of SHA-256 over the (prompt, answer) pairs in order, as 32 hex digits.

    Independent of how the JSON file is spaced, indented or escaped; a changed, moved or missing
    example changes it.
    """
    digest = hashlib.sha256()
    for prompt, answer in rows:
        digest.update(json.dumps([prompt, answer], separators=(",", ":")).encode("ascii") + b"\n")
    return digest.hexdigest()[:32]

"""Downloads against a local server: resumed, checked, atomic, and honest about what failed."""

from __future__ import annotations

import hashlib
import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cl_bench.corpora import transfer
from cl_bench.corpora.checksums import checksum_of_bytes, checksum_of_file
from cl_bench.corpora.download import Outcome, get_files, part_file
from cl_bench.corpora.registry import KnownFile
from cl_bench.corpora.storage import LOCK
from cl_bench.corpora.transfer import Patience
from cl_bench.errors import RunError, UserError
from tests.corpora.conftest import Site

BODY = bytes(range(256)) * 40
ONCE = Patience(attempts=1, pause=0, timeout=5)
THRICE = Patience(attempts=3, pause=0, timeout=5)


def known(name: str = "FOMC/train", body: bytes = BODY, sha256: bool = True) -> KnownFile:
    return KnownFile(
        file=f"trace/{name}.json",
        variant="5000",
        status="exact",
        rows=None,
        size=len(body),
        sha256=hashlib.sha256(body).hexdigest() if sha256 else None,
        git_blob=hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest(),
        examples=None,
        repository="some/where",
        commit="c0ffee",
        path=f"data set/{name}.json",
    )


def publish(site: Site, file: KnownFile, body: bytes = BODY) -> str:
    path = f"/{file.repository}/{file.commit}/{file.path}"
    site.files[path] = body
    return path


def get(
    site: Site, root: Path, *files: KnownFile, patience: Patience = ONCE, force: bool = False
) -> list[Outcome]:
    return get_files(files, root, mirror=site.url, patience=patience, force=force)


def leftovers(root: Path) -> list[str]:
    """Everything but the finished files and the lock."""
    files = (path for path in root.rglob("*") if path.is_file())
    return [path.name for path in files if path.suffix != ".json" and path.name != LOCK]


def test_a_file_is_downloaded_once(site: Site, tmp_path: Path) -> None:
    file = known()
    publish(site, file)
    first = get(site, tmp_path, file)
    second = get(site, tmp_path, file)
    assert [one.action for one in first + second] == ["downloaded", "kept"]
    assert first[0].checked_by == "sha256"
    assert (tmp_path / file.file).read_bytes() == BODY
    assert len(site.requests) == 1
    assert leftovers(tmp_path) == []


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, len(BODY) - 1))
def test_an_interrupted_download_goes_on_where_it_stopped(
    site: Site, tmp_path: Path, cut: int
) -> None:
    root, file = tmp_path / str(cut), known()
    path = publish(site, file)
    site.requests.clear()
    site.cut_after[path] = [cut]
    with pytest.raises(RunError, match=f"ended after {cut:,} of {len(BODY):,} bytes"):
        get(site, root, file)
    assert not (root / file.file).exists()
    assert part_file(file, root).read_bytes() == BODY[:cut]
    assert [one.action for one in get(site, root, file)] == ["resumed"]
    assert (root / file.file).read_bytes() == BODY
    assert site.requests == [(path, None), (path, f"bytes={cut}-" if cut else None)]
    assert leftovers(root) == []


def test_one_call_rides_out_several_interruptions(site: Site, tmp_path: Path) -> None:
    file = known()
    path = publish(site, file)
    site.cut_after[path] = [100, 50]
    get(site, tmp_path, file, patience=THRICE)
    assert (tmp_path / file.file).read_bytes() == BODY
    assert [wanted for _, wanted in site.requests] == [None, "bytes=100-", "bytes=150-"]


def test_a_server_that_ignores_range_starts_again(site: Site, tmp_path: Path) -> None:
    file = known()
    path = publish(site, file)
    site.honours_range = False
    site.cut_after[path] = [100]
    get(site, tmp_path, file, patience=THRICE)
    assert (tmp_path / file.file).read_bytes() == BODY


def test_a_whole_part_needs_no_more_bytes(site: Site, tmp_path: Path) -> None:
    file = known()
    publish(site, file)
    part = part_file(file, tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY)
    get(site, tmp_path, file)
    assert (tmp_path / file.file).read_bytes() == BODY


@pytest.mark.parametrize("damaged", [b"x" * 100, b"x" * len(BODY), b"x" * (len(BODY) + 1)])
def test_a_damaged_part_is_thrown_away(site: Site, tmp_path: Path, damaged: bytes) -> None:
    file = known()
    publish(site, file)
    part = part_file(file, tmp_path)
    part.parent.mkdir(parents=True)
    part.write_bytes(damaged)
    get(site, tmp_path, file, patience=THRICE)
    assert (tmp_path / file.file).read_bytes() == BODY


def test_parts_of_different_versions_have_different_names(tmp_path: Path) -> None:
    other = replace(known(body=b"another variant"), variant="500")
    assert part_file(known(), tmp_path) != part_file(other, tmp_path)


def test_a_wrong_checksum_leaves_nothing_and_the_others_are_had(site: Site, tmp_path: Path) -> None:
    wrong, right = known("FOMC/train"), known("FOMC/test")
    path = publish(site, wrong, b"something else")
    publish(site, right)
    with pytest.raises(RunError) as failure:
        get(site, tmp_path, wrong, right, patience=THRICE)
    message = str(failure.value)
    assert "trace/FOMC/train.json: wrong checksum (sha256): 14 bytes" in message
    assert "trace/FOMC/test.json" not in message
    assert not (tmp_path / wrong.file).exists()
    assert (tmp_path / right.file).read_bytes() == BODY
    assert leftovers(tmp_path) == []
    assert [asked for asked, _ in site.requests].count(path) == 1  # a second time it is no better


def test_an_unknown_sha256_is_replaced_by_the_git_blob_id(site: Site, tmp_path: Path) -> None:
    file = known(sha256=False)
    path = publish(site, file)
    (outcome,) = get(site, tmp_path, file)
    assert outcome.checked_by == "git blob id (sha256 unknown)"
    (tmp_path / file.file).unlink()
    site.files[path] = BODY[:-1] + b"!"
    with pytest.raises(RunError, match="wrong checksum \\(git blob id"):
        get(site, tmp_path, file)


def test_a_missing_file_is_asked_for_once_and_named(site: Site, tmp_path: Path) -> None:
    missing, present = known("FOMC/train"), known("FOMC/test")
    publish(site, present)
    with pytest.raises(RunError, match=r"train\.json: the server answered 404 .*data%20set/FOMC"):
        get(site, tmp_path, missing, present, patience=THRICE)
    assert len(site.requests) == 2
    assert (tmp_path / present.file).exists()


def test_a_busy_server_is_asked_again(site: Site, tmp_path: Path) -> None:
    file = known()
    site.statuses[publish(site, file)] = [503, 429]
    get(site, tmp_path, file, patience=THRICE)
    assert (tmp_path / file.file).read_bytes() == BODY


def test_no_content_length_is_no_obstacle(site: Site, tmp_path: Path) -> None:
    file = known()
    path = publish(site, file)
    site.sends_length = False
    get(site, tmp_path, file)
    (tmp_path / file.file).unlink()
    site.cut_after[path] = [10]  # only the checksum can tell
    with pytest.raises(RunError, match="wrong checksum"):
        get(site, tmp_path, file)


def test_without_a_network_the_rest_is_not_tried(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        mirror = f"http://127.0.0.1:{unused.getsockname()[1]}"
        files = [known("FOMC/train"), known("FOMC/test")]
        with pytest.raises(RunError) as failure:
            get_files(files, tmp_path, mirror=mirror, patience=ONCE)
    lines = str(failure.value).splitlines()
    assert "Connection refused" in lines[0]
    assert lines[1] == "trace/FOMC/test.json: not tried"
    assert "Run the same command again" in lines[2]


def test_other_content_is_kept_unless_forced(site: Site, tmp_path: Path) -> None:
    files = [known("FOMC/train"), known("FOMC/test")]
    for file in files:
        publish(site, file)
        (tmp_path / file.file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.file).write_bytes(b"my own")
    with pytest.raises(UserError) as refusal:
        get(site, tmp_path, *files)
    assert len(refusal.value.faults) == 2
    assert all("--force" in fault for fault in refusal.value.faults)
    assert site.requests == []
    assert (tmp_path / files[0].file).read_bytes() == b"my own"
    get(site, tmp_path, *files, force=True)
    assert (tmp_path / files[0].file).read_bytes() == BODY


def test_only_one_command_writes_at_a_time(site: Site, tmp_path: Path) -> None:
    file = known()
    publish(site, file)
    with (
        FileLock(tmp_path / LOCK),
        pytest.raises(UserError, match="another `cl-bench data` command"),
    ):
        get(site, tmp_path, file)


def test_a_full_disk_is_found_before_the_start(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    file = known()
    publish(site, file)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000))
    with pytest.raises(UserError, match="MB free"):
        get(site, tmp_path, file)
    assert site.requests == []


def test_a_root_that_is_a_file_is_the_users_fault(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("")
    with pytest.raises(UserError, match="cannot write to"):
        get(site, root, known())


@pytest.mark.parametrize("mirror", ["ftp://somewhere", "/some/folder", "raw.example.org"])
def test_a_mirror_is_a_web_address(tmp_path: Path, mirror: str) -> None:
    with pytest.raises(UserError, match="--mirror"):
        get_files([known()], tmp_path, mirror=mirror)


def test_a_mirror_can_be_a_template(site: Site, tmp_path: Path) -> None:
    file = known()
    site.files["/gh/some/where@c0ffee/data set/FOMC/train.json"] = BODY
    get_files([file], tmp_path, mirror=site.url + "/gh/{repository}@{commit}/{path}", patience=ONCE)
    assert (tmp_path / file.file).read_bytes() == BODY


def test_an_endless_answer_is_cut_off(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = known()
    publish(site, file)
    monkeypatch.setattr(transfer, "MAX_FILE", 1000)
    with pytest.raises(RunError, match="more than 1,000 bytes"):
        get(site, tmp_path, file, patience=THRICE)
    assert len(site.requests) == 1


def test_progress_counts_bytes(site: Site, tmp_path: Path) -> None:
    file = known()
    publish(site, file)
    seen: list[tuple[str, int, int | None]] = []
    get_files([file], tmp_path, mirror=site.url, on_progress=lambda *step: seen.append(step))
    assert seen[-1] == (file.file, len(BODY), len(BODY))


def test_checksums_are_gits_and_sha256s(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    # `printf 'hello\n' | git hash-object --stdin` and `| sha256sum`
    assert checksum_of_file(path).git_blob == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert checksum_of_file(path).sha256.startswith("5891b5b522d5df086d0ff0b110fbd9d2")
    assert checksum_of_file(path) == checksum_of_bytes(b"hello\n")

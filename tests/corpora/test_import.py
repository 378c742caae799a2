"""TRACE's own archive: the zip and the folder, its quirks, and archives that mean harm."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from cl_bench.corpora import archive
from cl_bench.corpora.archive import import_archive
from cl_bench.corpora.registry import FOLDERS, LIMA
from cl_bench.corpora.storage import LOCK
from cl_bench.errors import UserError
from tests.corpora.conftest import write_benchmark, write_rows

TOP = "TRACE-Benchmark/LLM-CL-Benchmark_"


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The official archive's layout: variants, Lima, junk, and no eval of 20Minuten in 500."""
    folder = tmp_path / "download"
    for variant in ("5000", "500", "Reasoning"):
        write_benchmark(folder / f"{TOP}{variant}", (*FOLDERS, LIMA), mark=f"{variant} ")
        (folder / f"{TOP}{variant}/.DS_Store").write_bytes(b"\0\1")
    (folder / f"{TOP}500/20Minuten/eval.json").unlink()
    junk = folder / "__MACOSX" / f"{TOP}5000/FOMC/train.json"
    junk.parent.mkdir(parents=True)
    junk.write_bytes(b"\0\5\26\7")
    (folder / f"{TOP}5000/FOMC/._train.json").write_bytes(b"\0\5\26\7")
    return folder


@pytest.fixture
def zipped(unpacked: Path, tmp_path: Path) -> Path:
    return Path(shutil.make_archive(str(tmp_path / "TRACE"), "zip", unpacked))


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != LOCK
    }


def faults_of(source: Path, root: Path, **options: object) -> list[str]:
    with pytest.raises(UserError) as refusal:
        import_archive(source, root, **options)  # type: ignore[arg-type]
    assert not (root / "trace").exists()
    return refusal.value.faults


@pytest.mark.parametrize("kind", ["zipped", "unpacked"])
def test_the_paper_variant_is_the_default(
    kind: str, unpacked: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    root = tmp_path / "root"
    imported = import_archive(request.getfixturevalue(kind), root)
    expected = {
        f"trace/{task}/{split}.json": (unpacked / f"{TOP}5000/{task}/{split}.json").read_bytes()
        for task in FOLDERS
        for split in ("train", "eval", "test")
    }
    assert tree(root) == expected
    assert [one.file for one in imported] == list(expected)
    assert {(one.rows, one.recognised) for one in imported} == {(2, "not known")}


@pytest.mark.parametrize("inside", ["download", "download/TRACE-Benchmark", f"download/{TOP}500"])
def test_any_level_of_the_folder_will_do(unpacked: Path, tmp_path: Path, inside: str) -> None:
    import_archive(tmp_path / inside, tmp_path / "root", variant="500")
    files = tree(tmp_path / "root")
    assert b"500 FOMC train" in files["trace/FOMC/train.json"]
    assert "trace/20Minuten/eval.json" not in files
    assert len(files) == 3 * len(FOLDERS) - 1


def test_lima_comes_when_it_is_named(zipped: Path, tmp_path: Path) -> None:
    import_archive(zipped, tmp_path / "root", tasks=[LIMA])
    assert set(tree(tmp_path / "root")) == {
        f"trace/Lima/{s}.json" for s in ("train", "eval", "test")
    }


def test_again_changes_nothing_and_another_variant_is_refused(zipped: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    import_archive(zipped, root)
    before = tree(root)
    import_archive(zipped, root)
    with pytest.raises(UserError) as refusal:
        import_archive(zipped, root, variant="500")
    assert len(refusal.value.faults) == 3 * len(FOLDERS) - 1
    assert tree(root) == before
    import_archive(zipped, root, variant="500", force=True)
    assert b"500 FOMC" in tree(root)["trace/FOMC/train.json"]


def test_the_real_files_are_recognised(shared_dir: Path, tmp_path: Path) -> None:
    imported = import_archive(shared_dir / "data" / "trace_500", tmp_path / "root")
    said = {one.file: one.recognised for one in imported}
    assert said.pop("trace/MeetingBank/train.json") == "exact, variant rebuilt"
    assert set(said.values()) == {"exact, variant 500"}


def test_a_variant_that_is_not_there(zipped: Path, tmp_path: Path) -> None:
    (fault,) = faults_of(zipped, tmp_path / "root", variant="1000")
    assert "no variant 1000; it holds: 500, 5000, Reasoning" in fault


def test_several_variants_need_a_choice(unpacked: Path, tmp_path: Path) -> None:
    shutil.rmtree(unpacked / f"{TOP}5000")
    shutil.copytree(unpacked / f"{TOP}500", unpacked / f"{TOP}1000")
    (fault,) = faults_of(unpacked, tmp_path / "root")
    assert fault.endswith("say --variant: 1000, 500")


@pytest.mark.parametrize("inside", [False, True])
def test_reasoning_is_not_what_trace_scores(unpacked: Path, tmp_path: Path, inside: bool) -> None:
    for variant in ("500", "5000"):
        shutil.rmtree(unpacked / f"{TOP}{variant}")
    source = unpacked / f"{TOP}Reasoning" if inside else unpacked
    (fault,) = faults_of(source, tmp_path / "root")
    assert "holds only the variant Reasoning" in fault and not (tmp_path / "root").exists()


def test_the_same_variant_twice_is_ambiguous(unpacked: Path, tmp_path: Path) -> None:
    shutil.copytree(unpacked / f"{TOP}5000", unpacked / "copy" / "LLM-CL-Benchmark_5000")
    (fault,) = faults_of(unpacked, tmp_path / "root")
    assert "5000 is there twice" in fault


def test_everything_missing_or_faulty_is_listed_and_nothing_is_imported(
    unpacked: Path, tmp_path: Path
) -> None:
    bench = unpacked / f"{TOP}5000"
    shutil.move(bench / "FOMC", bench / "FOMCs")
    (bench / "Py150/test.json").unlink()
    faults = faults_of(unpacked, tmp_path / "root")
    assert len(faults) == 2
    assert "no folder FOMC (did you mean 'FOMCs'?)" in faults[0]
    assert faults[1].endswith("Py150/test.json is missing")

    (bench / "C-STANCE/train.json").write_text('[{"prompt": "p"}]')
    (bench / "ScienceQA/eval.json").write_bytes(b'[{"prompt": "\xff"}]')
    faults = faults_of(unpacked, tmp_path / "root", tasks=["C-STANCE", "ScienceQA"])
    assert len(faults) == 2
    assert faults[0].endswith(
        "C-STANCE/train.json: row 1: field 'answer': missing (the row has prompt)"
    )
    assert "ScienceQA/eval.json: byte 13 (line 1) is not UTF-8: 0xff" in faults[1]


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "a/../../FOMC/train.json", "/etc/evil", "..\\evil", "C:\\evil", "C:evil"],
)
def test_a_member_that_points_out_of_the_archive(zipped: Path, tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(zipped, "a") as opened:
        opened.writestr(name, "[]")
        opened.writestr("../second", "[]")
    faults = faults_of(zipped, tmp_path / "root")
    assert len(faults) == 2
    assert all("points out of the archive" in fault for fault in faults)


def test_a_member_that_is_there_twice(zipped: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped, "a") as opened, pytest.warns(UserWarning, match="Duplicate name"):
        opened.writestr(f"{TOP}5000/FOMC/train.json", "[]")
    (fault,) = faults_of(zipped, tmp_path / "root")
    assert "is there twice" in fault


def test_a_bomb_is_not_unpacked(
    zipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_FILE", 10)
    faults = faults_of(zipped, tmp_path / "root")
    assert len(faults) == 3 * len(FOLDERS)
    assert all("more than the 10 allowed" in fault for fault in faults)
    monkeypatch.setattr(archive, "MAX_FILE", 10**6)
    monkeypatch.setattr(archive, "MAX_TOTAL", 100)
    assert "more than the 100 allowed" in faults_of(zipped, tmp_path / "root")[0]
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    assert "more than the 5 allowed" in faults_of(zipped, tmp_path / "root")[0]


def test_a_member_larger_than_it_says_is_not_read_to_its_end(tmp_path: Path) -> None:
    source = tmp_path / "liar.zip"
    write_rows(tmp_path / "FOMC/train.json", [("p" * 1000, "a")])
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as opened:
        for split in ("train", "test"):
            opened.write(tmp_path / "FOMC/train.json", f"{TOP}5000/FOMC/{split}.json")
            opened.infolist()[-1].file_size = 20
    faults = faults_of(source, tmp_path / "root", tasks=["FOMC"])
    assert len(faults) == 2
    assert all("cannot be read" in fault for fault in faults)


def test_an_encrypted_member(zipped: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped) as opened:
        local = opened.getinfo(f"{TOP}5000/FOMC/train.json").header_offset
        name = f"{TOP}5000/FOMC/train.json".encode()
    data = bytearray(zipped.read_bytes())
    headers = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    (central,) = [at for at in headers if data[at + 46 :].startswith(name)]
    data[local + 6] |= 1  # the flags of both headers
    data[central + 8] |= 1
    zipped.write_bytes(data)
    (fault,) = faults_of(zipped, tmp_path / "root", tasks=["FOMC"])
    assert "cannot be unpacked" in fault
    assert "encrypted" in fault


def test_a_damaged_member(zipped: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(zipped) as opened:
        info = opened.getinfo(f"{TOP}5000/FOMC/train.json")
    data = bytearray(zipped.read_bytes())
    body = info.header_offset + 30 + len(info.filename)
    data[body : body + 20] = b"\xff" * 20
    zipped.write_bytes(data)
    (fault,) = faults_of(zipped, tmp_path / "root", tasks=["FOMC"])
    assert "FOMC/train.json: cannot be read" in fault


def test_what_is_no_archive(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a zip")
    assert "neither a folder nor a zip file" in faults_of(text, tmp_path / "root")[0]
    assert "No such file" in faults_of(tmp_path / "absent.zip", tmp_path / "root")[0]
    (tmp_path / "empty").mkdir()
    assert "holds no <Task>/train.json" in faults_of(tmp_path / "empty", tmp_path / "root")[0]

"""`cl-bench data` as a user meets it: exit codes, JSON on stdout, faults on stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cl_bench.cli import run_command
from cl_bench.corpora.registry import trace_files
from tests.corpora.conftest import Site, write_benchmark
from tests.helpers.tiny import byte_tokenizer


def serve(site: Site, shared_dir: Path, *tasks: str) -> None:
    for known in trace_files("500", tasks):
        content = (shared_dir / "data" / "trace_500" / known.file[len("trace/") :]).read_bytes()
        site.files[f"/{known.repository}/{known.commit}/{known.path}"] = content


def test_get_then_verify_then_audit(
    site: Site, shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(site, shared_dir, "FOMC", "NumGLUE-cm")
    get = ["data", "get", "trace", "--variant", "500", "--task", "fomc,numglue-cm"]
    get += ["--mirror", site.url, "--root", str(tmp_path)]
    assert run_command(get) == 0
    printed = capsys.readouterr().out
    assert "CC BY-NC 4.0 (non-commercial)" in printed
    assert "ODC-By" in printed
    assert printed.count("downloaded") == 6

    assert run_command([*get]) == 0
    assert capsys.readouterr().out.count("kept") == 6

    assert run_command(["data", "verify", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["tasks"]["FOMC"], found["tasks"]["Py150"]) == (True, "500", "absent")

    assert run_command(["data", "audit", str(tmp_path), "--task", "NumGLUE-cm", "--json"]) == 0
    (task,) = json.loads(capsys.readouterr().out)["tasks"]
    assert task["repetition"]["train"]["distinct_prompts"] == 256
    assert task["truncation"] == {}


def test_the_default_root_is_where_runs_look(
    site: Site, shared_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CL_BENCH_DATA_ROOT", raising=False)
    monkeypatch.setenv("CL_BENCH_CACHE", str(tmp_path))
    serve(site, shared_dir, "FOMC")
    get = ["data", "get", "trace", "--variant", "500", "--task", "FOMC", "--mirror", site.url]
    assert run_command(get) == 0
    assert (tmp_path / "data" / "trace" / "FOMC" / "train.json").is_file()


def test_a_download_that_fails_is_not_the_users_fault(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    get = ["data", "get", "general", "--task", "gsm8k", "--mirror", site.url]
    assert run_command([*get, "--root", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.count("the server answered 404") == 3
    assert "Run the same command again" in said


def test_faults_go_to_stderr_and_json_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "trace" / "FOMC").mkdir(parents=True)
    (tmp_path / "trace" / "FOMC" / "train.json").write_text('[{"prompt": 1, "answer": 2}]')
    assert run_command(["data", "verify", str(tmp_path), "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["faults"] == [
        line.removeprefix("cl-bench: error: ") for line in captured.err.splitlines()
    ]
    assert captured.err.count("field '") == 2
    assert "test.json: missing" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["get", "tarce"], "unknown data 'tarce' (did you mean 'trace'?)"),
        (["get", "trace", "--variant", "50"], "unknown variant '50'"),
        (["get", "trace", "--task", "FMOC"], "did you mean 'FOMC'?"),
        (["get", "general", "--task", "FOMC"], "unknown set 'fomc'"),
        (["get", "trace", "--mirror", "file:///x"], "is not an http"),
        (["import", "absent.zip"], "absent.zip: cannot be read"),
        (["import", "absent.zip", "--variant", "Reasoning"], "unknown variant 'Reasoning'"),
        (["verify", "absent"], "absent: no such folder"),
        (["audit", "absent"], "absent: no such folder"),
        (["audit", ".", "--task", "NumGLUE"], "unknown task 'NumGLUE'"),
    ],
)
def test_wrong_input_is_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path / "root")] if arguments[0] in ("get", "import") else []
    assert run_command(["data", *arguments, *root]) == 2
    assert said in capsys.readouterr().err


def test_import_and_a_printed_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_benchmark(tmp_path / "LLM-CL-Benchmark_5000", mark="[/bold] ")  # no markup to rich
    root = tmp_path / "root"
    assert run_command(["data", "import", str(tmp_path), "--root", str(root)]) == 0
    assert "trace/20Minuten/test.json" in capsys.readouterr().out
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    limits = ["--max-prompt-tokens", "10", "--max-answer-tokens", "1", "--truncation", "left"]
    tokenizer = ["--tokenizer", str(tmp_path / "tokenizer")]
    assert run_command(["data", "audit", str(root), *tokenizer, *limits]) == 0
    printed = capsys.readouterr().out
    for title in ("Repetition and leakage", "Answers as labels", "Lengths in tokens", "Truncation"):
        assert title in printed
    assert "FOMC: 100.0% of test prompts lose their beginning" in printed


def test_verify_prints_its_tables(shared_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["data", "verify", str(shared_dir / "data")]) == 0
    printed = capsys.readouterr().out
    assert "mixed: train 1000, eval 500, test 500" in printed
    assert "general/tydiqa/test.jsonl" in printed


def test_an_audit_without_a_tokenizer_needs_no_torch(shared_dir: Path) -> None:
    program = (
        "import sys; from cl_bench.cli import run_command; "
        "code = run_command(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'datasets', 'lm_eval'} & set(sys.modules); "
        "assert not heavy, heavy; sys.exit(code)"
    )
    arguments = ["data", "audit", str(shared_dir / "data"), "--task", "FOMC", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks"][0]["eval_is_test"] is True

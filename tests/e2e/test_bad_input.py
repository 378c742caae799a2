"""Benchmark files with faults and tokenizers without special tokens, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.conftest import Bench
from tests.helpers.general_rows import rows
from tests.helpers.read import lines_of
from tests.helpers.tiny import byte_tokenizer

SIX = ("mmlu", "bbh", "tydiqa", "boolq", "piqa", "gsm8k")
REQUIRED = {
    "mmlu": ("answer", "not one of 'A', 'B', 'C', 'D'", "E"),
    "bbh": ("target", "a number, not a string", 3),
    "tydiqa": ("answers", "an object, not a list", {"texts": "no one"}),
    "boolq": ("label", "not one of 'true', 'false'", True),
    "piqa": ("label", "not one of 0, 1", 2),
    "gsm8k": ("answer", "null, not a string", None),
}
"""A key of every benchmark's rows, what is said of a wrong value, and one."""


@pytest.fixture
def six(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """All of General in the data root, and no hub behind it."""

    def no_hub(**hub: Any) -> None:
        raise OSError("no network in tests")

    monkeypatch.setattr("datasets.load_dataset", no_hub)
    for name, lines in rows().items():
        file = general(bench, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bench.write_config(methods=["sft"], eval={"general": {"tasks": list(SIX)}})
    return bench


def general(bench: Bench, name: str) -> Path:
    return bench.root / "data" / "general" / f"{name}.jsonl"


def faults(bench: Bench, *overrides: str) -> str:
    """What `run` says; nothing was loaded, trained or written before."""
    code, _, err = bench.run("run", "tiny.yaml", *overrides)
    assert code == 2 and "Traceback" not in err
    assert not bench.results.exists()
    return err


def test_missing_files_of_all_six_are_named_with_what_to_do(six: Bench) -> None:
    for name in SIX:
        general(six, f"{name}/test").unlink()
    err = faults(six)
    for name in SIX:
        assert f"{general(six, f'{name}/test')}: not found" in err
    assert err.count("cl-bench data get general") == len(SIX)


def test_wrong_fields_of_all_six_are_named_with_line_and_key(six: Bench) -> None:
    for name, (key, _, wrong) in REQUIRED.items():
        first, *_ = rows()[f"{name}/test"]
        without = {field: value for field, value in first.items() if field != key}
        lines = [first, {**first, key: wrong}, without]
        general(six, f"{name}/test").write_text("".join(json.dumps(x) + "\n" for x in lines))
    err = faults(six)
    for name, (key, message, _) in REQUIRED.items():
        file = general(six, f"{name}/test")
        assert f"{file}: line 2: field '{key}': {message}" in err
        assert f"{file}: line 3: field '{key}': missing (the row has " in err


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n", "has no rows; get it with"), ("{}\n{oops}\n", "line 2: not JSON (column 2")],
)
def test_files_of_all_six_that_are_empty_or_not_json(six: Bench, text: str, message: str) -> None:
    for name in SIX:
        general(six, f"{name}/test").write_text(text)
    err = faults(six)
    for name in SIX:
        assert f"{general(six, f'{name}/test')}: {message}" in err


def test_files_of_shots_are_read_before_training_too(six: Bench) -> None:
    """Their faults stand beside those of the questions."""
    general(six, "mmlu/dev").write_text("[]\n[]\n")
    general(six, "mmlu/test").write_text("{oops}\n")
    general(six, "gsm8k/train").write_text('{"question": "Q"}\n')
    err = faults(six)
    assert f"{general(six, 'mmlu/dev')}: line 1-2: a list, not an object with subject" in err
    assert f"{general(six, 'mmlu/test')}: line 1: not JSON" in err
    assert f"{general(six, 'gsm8k/train')}: line 1: field 'answer': missing" in err
    general(six, "bbh/dev").write_text('{"task": "snarks"}\n')
    err = faults(six, "-o", "eval.general.protocol=opencompass-2023")
    assert f"{general(six, 'bbh/dev')}: line 1: field 'cot_prompt': missing" in err


def save_tokenizer(bench: Bench, *without: str) -> None:
    """The model's tokenizer, lacking some of its special tokens."""
    tokenizer = byte_tokenizer()
    for name in without:
        setattr(tokenizer, name, None)
    tokenizer.save_pretrained(bench.root / "model")


@pytest.mark.parametrize("without", [("pad_token",), ("bos_token",), ("pad_token", "bos_token")])
def test_missing_pad_or_bos_tokens_change_neither_training_nor_scores(
    bench: Bench, without: tuple[str, ...]
) -> None:
    """No prompt here is empty, so that nothing depends on them; both engines must say the same."""
    command = ("run", "tiny.yaml", "--method", "sft", "-o", "train.micro_batch_size=4")
    bench.trained(*command[2:], "-o", "name=whole")
    save_tokenizer(bench, *without)
    for engine in ("cl-bench", "hf"):
        bench.must(*command, "-o", f"name={engine}", "--engine", engine)
    root = bench.root / "results"
    first, last = (f"sft/seed-1/stage-{name}" for name in ("1-trace_fomc", "2-trace_numglue_ds"))
    for engine in ("cl-bench", "hf"):
        for place in (first, last):
            weights = Path(place, "checkpoint", "model.safetensors")
            assert (root / engine / weights).read_bytes() == (root / "whole" / weights).read_bytes()
        for place in ("base", first):
            expected = answers(root / "whole" / place, "trace_fomc", "prediction")
            assert all(expected), "no text says nothing"
            assert answers(root / engine / place, "trace_fomc", "prediction") == expected
        for place in ("base", first, last):
            np.testing.assert_allclose(
                answers(root / engine / place, "general_piqa", "loglikelihoods"),
                answers(root / "whole" / place, "general_piqa", "loglikelihoods"),
                atol=1e-4,
            )


def answers(place: Path, task: str, key: str) -> list[Any]:
    return [line[key] for line in lines_of(place / "predictions" / f"{task}.jsonl")]


@pytest.mark.parametrize("engine", ["cl-bench", "hf"])
@pytest.mark.parametrize("without", [("eos_token",), ("bos_token", "eos_token")])
def test_a_tokenizer_without_eos_is_refused_before_training(
    bench: Bench, engine: str, without: tuple[str, ...]
) -> None:
    """Without it no answer would have an end."""
    save_tokenizer(bench, *without)
    code, _, err = bench.run("run", "tiny.yaml", "--engine", engine)
    assert code == 2 and "Traceback" not in err
    assert "has no EOS token" in err
    assert not [*bench.results.glob("**/checkpoint"), *bench.results.glob("**/scores.json")]


@pytest.mark.parametrize("value", ["0", "-1"])
def test_limits_of_nothing_are_refused(bench: Bench, value: str) -> None:
    code, _, err = bench.run("run", "tiny.yaml", "-o", f"eval.general.limit={value}")
    assert code == 2 and f"limit: {value} documents give no score" in err
    override = f"eval.general.limit={{piqa: {value}}}"
    code, _, err = bench.run("run", "tiny.yaml", "-o", override)
    assert code == 2 and f"piqa: {value} documents give no score" in err
    code, _, err = bench.run("eval", "results/tiny", "--stage", "1", "--limit", value)
    assert code == 2 and "--limit" in err
    assert not bench.results.exists()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (
            {"name": "branch_merge", "branches": 3, "rounds": 3},
            "methods: branch_merge: stage 1: branch_merge needs 9 examples at least with these "
            "options, and the stage has 8",
        ),
        (
            {"name": "loki", "task": "piqa"},
            "methods: loki: task: piqa: general_piqa: cannot be trained on: its YAML names no "
            "training_split",
        ),
    ],
)
def test_what_the_data_lacks_is_refused_by_plan_and_run(
    bench: Bench, method: dict[str, Any], said: str
) -> None:
    bench.write_config(methods=[method])
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and said in err
    assert not bench.results.exists()

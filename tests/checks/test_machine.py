"""`cl-bench doctor`: what is wrong with a machine is told apart from what is only slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from cl_bench.checks import machine
from cl_bench.checks.machine import Finding, examine
from tests.helpers.tiny import byte_tokenizer, tiny_model


def kinds(found: list[Finding], word: str) -> list[str]:
    return [finding.kind for finding in found if word in finding.text]


def test_this_machine_is_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    found = list(examine("./model", tmp_path))
    assert not [finding for finding in found if finding.kind == "fault"]
    assert kinds(found, "transformers 5") == ["ok"]
    assert kinds(found, "TRACE: not in") == ["note"]
    assert kinds(found, "the hub is not asked") == ["ok"]
    assert kinds(found, "tokenizer of 259 tokens") == ["ok"]
    assert not kinds(found, "comes back as")


def test_versions_outside_of_the_range_are_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.version
    other = {"peft": "0.1", "rich": "13.9"}
    monkeypatch.setattr(machine, "version", lambda name: other.get(name) or real(name))
    found = list(machine._packages())
    assert kinds(found, "peft 0.1: cl-bench needs") == ["fault"]
    assert kinds(found, "rich 13.9: allowed; the tests run with") == ["note"]


@pytest.mark.parametrize(("rates", "kind"), [((20.0, 0.6), "note"), ((20.0, 45.0), "ok")])
def test_slow_bfloat16_is_said(
    rates: tuple[float, float], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "product_rates", lambda device: rates)
    assert kinds(list(machine._device()), "bfloat16") == [kind]


def test_a_tokenizer_that_loses_text_is_said(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Lowercase()
    tokenizer.save_pretrained(tmp_path / "model")
    found = list(machine._tokenizer(str(tmp_path / "model")))
    assert kinds(found, "'Plain English, 42 + 7 = 49.' comes back as 'plain english") == ["note"]
    assert [f.kind for f in machine._tokenizer(str(tmp_path / "nowhere"))] == ["fault"]

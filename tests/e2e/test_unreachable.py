"""Answers that cannot be scored in full, from the command line: plan, run, notes and report."""

from __future__ import annotations

import json

from tests.e2e.conftest import Bench, write_task


def test_lost_ends_are_refused_or_said_by_all(bench: Bench) -> None:
    rows = [(f"Text {i}\nStance:", "ABCABCABC"[i % 3 :][:6]) for i in range(12)]
    write_task(bench.root / "data", "FOMC", rows)
    bench.write_config(methods=["sft"], stages=[{"task": "FOMC"}])
    for command in ("plan", "run"):
        code, _, err = bench.run(command, "tiny.yaml")
        assert code == 2 and "Traceback" not in err
        assert "trace_fomc: 12 of 12 gold answers of test documents lose score" in err
        assert "test document 0: the answer is cut (6 tokens, limit 4)" in err
        assert "`allow_unreachable: true`" in err
        assert not bench.results.exists()
    lost = "12 of 12 training answers lose their end: max_answer_tokens 4"
    accept = ("-o", "stages.0.allow_unreachable=true", "-o", "eval.general.after=never")
    assert lost in bench.must("plan", "tiny.yaml", *accept)
    code, _, err = bench.run("run", "tiny.yaml", *accept)
    assert code == 0 and lost in err
    report = bench.report()
    assert lost in report and "accepted by allow_unreachable" in report
    stage = bench.results / "sft" / "seed-1" / "stage-1-trace_fomc"
    notes = json.loads((stage / "notes.json").read_text())
    assert notes["answers_without_end"] == {"answers": 12, "of": 12, "max_answer_tokens": 4}


def test_plain_answers_leave_no_note(bench: Bench) -> None:
    bench.write_config(methods=["sft"], stages=[{"task": "FOMC", "limit": 4}])
    bench.must("run", "tiny.yaml", "-o", "eval.general.after=never")
    assert "Said at the start" not in bench.report()
    notes = bench.results / "sft" / "seed-1" / "stage-1-trace_fomc" / "notes.json"
    assert "answers_without_end" not in notes.read_text()

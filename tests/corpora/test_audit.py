"""The audit against what is known of the real data, and against plain oracles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.corpora.audit import (
    TaskAudit,
    audit_task,
    conflicts,
    labels,
    overlap,
    percentiles,
    read_tasks,
    repetition,
)
from cl_bench.corpora.tables import findings
from cl_bench.corpora.token_lengths import TokenBudget, token_budget
from cl_bench.data.rows import Row
from cl_bench.errors import UserError
from tests.corpora.conftest import write_rows
from tests.helpers.tiny import byte_tokenizer

ROWS = st.lists(
    st.builds(Row, st.sampled_from(["p", "q", "r", "s"]), st.sampled_from(["A", "B"])),
    min_size=1,
    max_size=12,
)


@pytest.fixture(scope="module")
def real(shared_dir: Path) -> dict[str, TaskAudit]:
    loaded = read_tasks(shared_dir / "data", [])
    return {task: audit_task(task, splits, None) for task, splits in loaded.items()}


def test_repetition_in_the_real_data(real: dict[str, TaskAudit]) -> None:
    distinct = {task: one.repetition["train"].distinct_prompts for task, one in real.items()}
    assert distinct == {
        "C-STANCE": 5000,
        "FOMC": 1915,
        "MeetingBank": 376,
        "Py150": 958,
        "ScienceQA": 1000,
        "NumGLUE-cm": 282,
        "NumGLUE-ds": 1069,
        "20Minuten": 1000,
    }


def test_leakage_in_the_real_data(real: dict[str, TaskAudit]) -> None:
    found = {
        (task, one.part, one.of): (one.prompts, one.rows)
        for task, audited in real.items()
        for one in audited.overlaps
        if one.prompts
    }
    assert found == {
        ("FOMC", "test", "train"): (16, 16),
        ("FOMC", "eval", "train"): (16, 16),
        ("FOMC", "test", "eval"): (496, 496),
        ("Py150", "test", "train"): (5, 9),
        ("Py150", "eval", "train"): (3, 3),
        ("NumGLUE-ds", "test", "train"): (32, 34),
        ("NumGLUE-ds", "eval", "train"): (16, 16),
        ("NumGLUE-ds", "test", "eval"): (2, 2),
    }
    assert [task for task, one in real.items() if one.eval_is_test] == ["FOMC"]


def test_conflicts_and_labels_in_the_real_data(real: dict[str, TaskAudit]) -> None:
    assert real["FOMC"].conflicts["train"].prompts == 4
    assert real["FOMC"].labels["test"].shares == pytest.approx(
        {"C": 245 / 496, "A": 129 / 496, "B": 122 / 496}
    )
    assert set(real["ScienceQA"].labels["test"].shares) == set("ABCD")
    assert [task for task, one in real.items() if not one.labels] == [
        "MeetingBank",
        "Py150",
        "20Minuten",
    ]


def test_the_findings_are_sentences(real: dict[str, TaskAudit]) -> None:
    assert findings(real["C-STANCE"]) == []
    told = "\n".join(findings(real["FOMC"]))
    assert "1,915 distinct prompts in 5,000 rows" in told
    assert "distinct test prompts that train has too: 16 (16 of 496 test rows, 3.2%)" in told
    assert "eval and test are the same examples" in told
    assert "train prompts with more than one answer: 4" in told


@given(ROWS, ROWS)
def test_counts_by_brute_force(test: list[Row], train: list[Row]) -> None:
    found = overlap({"train": train, "test": test}, "test", "train")
    shared = [p for p in "pqrs" if any(r.prompt == p for r in test)
              and any(r.prompt == p for r in train)]  # fmt: skip
    assert found.prompts == len(shared)
    assert found.rows == sum(any(r.prompt == s.prompt for s in train) for r in test)
    assert found.source_rows == sum(any(r.prompt == s.prompt for s in test) for r in train)
    assert found.share == found.rows / len(test)
    assert found.same_answer == sum(
        any(r == s and r.prompt == p for r in test for s in train) for p in shared
    )

    said = repetition(train)
    first = [row for i, row in enumerate(train) if row.prompt not in [r.prompt for r in train[:i]]]
    assert said.distinct_prompts == len(first)
    assert said.duplicate_rows == len(train) - len(first)
    assert said.most_repeated == max(sum(r.prompt == p for r in train) for p in "pqrs")
    assert said.distinct_examples == sum(row not in train[:i] for i, row in enumerate(train))


@given(ROWS)
def test_conflicts_by_brute_force(rows: list[Row]) -> None:
    found = conflicts(rows)
    torn = [p for p in "pqrs" if len({r.answer for r in rows if r.prompt == p}) > 1]
    assert found.prompts == len(torn)
    assert found.rows == sum(row.prompt in torn for row in rows)
    answerers = (dict(zip("pqrs", answers, strict=True)) for answers in _answers())
    best = max(sum(one[row.prompt] == row.answer for row in rows) for one in answerers)
    assert found.ceiling == best / len(rows)


def _answers() -> Iterator[str]:
    """Every way to give each of the four prompts one answer."""
    return (a + b + c + d for a in "AB" for b in "AB" for c in "AB" for d in "AB")


@given(st.lists(st.integers(0, 50), min_size=1))
def test_percentiles_are_nearest_ranks(values: list[int]) -> None:
    found = percentiles(values)
    assert found["max"] == max(values)
    for name, q in [("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)]:
        reaching = [v for v in values if 100 * sum(w <= v for w in values) >= q * len(values)]
        assert found[name] == min(reaching)


@given(st.permutations(["A\nwhy", "A\nso", "B\nas"]))
def test_labels_of_science_are_first_characters(answers: list[str]) -> None:
    rows = [Row(str(i), answer) for i, answer in enumerate(answers * 2)]
    found = labels("ScienceQA", {"train": rows})["train"]
    assert (found.distinct, found.majority) == (2, "A")
    assert found.shares == pytest.approx({"A": 2 / 3, "B": 1 / 3})
    assert labels("20Minuten", {"train": rows[:3]}) == {}


def test_eval_is_test_in_any_order() -> None:
    rows = [Row("p", "a"), Row("q", "b"), Row("p", "a")]
    splits = {"train": rows, "eval": rows[::-1], "test": rows}
    assert audit_task("FOMC", splits, None).eval_is_test
    assert not audit_task("FOMC", {**splits, "eval": rows[:2]}, None).eval_is_test


def budget(prompt: int, answer: int, mode: str) -> TokenBudget:
    return TokenBudget(byte_tokenizer(), prompt, answer, mode)  # type: ignore[arg-type]


LONG = Row("Do it.\nText:\n" + "x" * 40 + "\nAnswer:", "abcdefgh")
SHORT = Row("Do it.\nText:\ny\nAnswer:", "ab")


def test_what_is_cut_is_counted_in_tokens() -> None:
    splits = {"train": [LONG, SHORT, SHORT, LONG], "test": [SHORT, LONG]}
    found = audit_task("FOMC", splits, budget(30, 5, "left"))
    assert found.length_unit == "tokens"
    assert found.prompt_lengths["train"]["p50"] == len(SHORT.prompt)
    assert found.prompt_lengths["train"]["max"] == len(LONG.prompt)
    assert found.answer_lengths["train"] == {"p50": 2, "p90": 8, "p95": 8, "p99": 8, "max": 8}
    cut = found.truncation["train"]
    assert (cut.prompts, cut.head, cut.middle, cut.prompts_share) == (2, 2, 0, 0.5)
    assert cut.prompt_tokens_lost == len(LONG.prompt) - 30
    assert (cut.answers, cut.answers_share) == (2, 0.5)
    assert found.truncation["test"].answers == 1
    assert any("50.0% of train prompts lose their beginning" in one for one in findings(found))


def test_keep_instruction_cuts_the_middle_where_there_is_one() -> None:
    code = Row("".join(chr(97 + i % 26) for i in range(60)), "a")  # one line: all body
    splits = {"train": [LONG, SHORT, code], "test": [code, LONG]}
    found = audit_task("Py150", splits, budget(30, 50, "keep_instruction")).truncation
    for cut in found.values():
        assert (cut.prompts, cut.head, cut.middle, cut.answers) == (2, 1, 1, 0)


def test_trace_cuts_training_jointly_and_scoring_by_the_prompt() -> None:
    whole = len(LONG.prompt) + len(LONG.answer)
    splits = {"train": [LONG], "test": [LONG]}
    found = audit_task("FOMC", splits, budget(whole - 8, 8, "trace"))
    assert found.truncation["train"].prompts == 0
    assert found.truncation["test"].prompts == 0
    assert found.prompt_lengths["train"]["max"] == len(LONG.prompt)
    found = audit_task("FOMC", splits, budget(20, 10, "trace"))
    assert found.truncation["train"].prompt_tokens_lost == whole - 30
    assert found.truncation["test"].prompt_tokens_lost == len(LONG.prompt) - 20
    assert found.truncation["train"].head == 1


def test_every_fault_of_every_file_is_listed(tmp_path: Path) -> None:
    write_rows(tmp_path / "trace/FOMC/train.json", [("p", "a")])
    (tmp_path / "trace/FOMC/test.json").write_text('[{"prompt": 3, "answer": "a"}]')
    with pytest.raises(UserError) as refusal:
        read_tasks(tmp_path, ["FOMC", "Py150"])
    assert [fault.removeprefix(f"{tmp_path}/trace/") for fault in refusal.value.faults] == [
        "FOMC/test.json: row 1: field 'prompt': a number, not a string",
        "Py150/train.json: cannot be read: No such file or directory",
        "Py150/test.json: cannot be read: No such file or directory",
    ]


def test_a_root_without_tasks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no trace/<Task>/ folders"):
        read_tasks(tmp_path, [])
    (tmp_path / "trace").mkdir()
    with pytest.raises(UserError, match="none of TRACE's tasks"):
        read_tasks(tmp_path, [])


def test_wrong_limits_are_all_told() -> None:
    with pytest.raises(UserError) as refusal:
        token_budget("x", 0, -1, "rigth")
    assert len(refusal.value.faults) == 3


def test_a_tokenizer_is_loaded_from_a_folder(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    loaded = token_budget(str(tmp_path / "tokenizer"), 30, 5, "left")
    assert (
        audit_task("FOMC", {"train": [LONG], "test": [LONG]}, loaded).truncation["test"].head == 1
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"cannot load '.*empty'"):
        token_budget(str(tmp_path / "empty"), 30, 5, "left")
    with pytest.raises(UserError, match="no folder 'smollm'"):
        token_budget("smollm", 30, 5, "left")

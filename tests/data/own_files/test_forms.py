"""Rows of every form: the prompt that is asked, the answer that is learned, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.config.stages import OwnMetric, name_of_data
from cl_bench.data.own_files.conversation import answer_of, conversation_prompt, pair_prompt
from cl_bench.data.own_files.forms import FORMS, forms_of, read_row
from cl_bench.data.own_files.metrics import METRICS, labels_in, metrics_for
from cl_bench.data.own_files.task import OwnTask, StageData, own_task
from cl_bench.errors import UserError
from cl_bench.metrics.modern import rouge_l_any_script, rouge_score_l, words

ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "prompt/response": ({"prompt": "Ask", "response": " Say ", "id": 3}, "Ask\n", "Say"),
    "prompt/answer": ({"prompt": "Ask: ", "answer": "Say"}, "Ask: ", "Say"),
    "prompt/completion": ({"prompt": "Ask\n\n", "completion": "Say"}, "Ask\n\n", "Say"),
    "question/answer": ({"question": "Ask?", "answer": "a\nb"}, "Ask?\n", "a\nb"),
    "instruction/response": ({"instruction": "Ask", "response": "Say"}, "Ask\n", "Say"),
    "instruction/input/output": (
        {"system": "Be good", "instruction": "Add", "input": "1, 2", "output": "3"},
        "Be good\n\nAdd\n\n1, 2\n",
        "3",
    ),
    "messages": (
        {
            "messages": [
                {"role": "system", "content": "Be good"},
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Ho"},
                {"role": "user", "content": "And?"},
                {"role": "assistant", "content": "Off"},
            ]
        },
        "System:\nBe good\n\nUser:\nHi\n\nAssistant:\nHo\n\nUser:\nAnd?\n\nAssistant:\n",
        "Off",
    ),
    "conversations": (
        {
            "system": " ",
            "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        },
        "User:\nHi\n\nAssistant:\n",
        "Ho",
    ),
}


def test_there_is_a_row_of_every_form_here() -> None:
    assert set(ROWS) == {form.name for form in FORMS}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_a_prompt_and_an_answer(name: str) -> None:
    row, prompt, answer = ROWS[name]
    (form,) = forms_of(row)
    assert form.name == name
    read = read_row(row, form)
    assert not isinstance(read, list), read
    document = read.document()
    text = conversation_prompt if form.chat else pair_prompt
    assert (text(document), answer_of(document)) == (prompt, answer)
    assert all(set(turn) == {"role", "content"} for turn in document["turns"])


def test_empty_inputs_and_nulls_are_none() -> None:
    for extra in ({"input": ""}, {"input": None}, {}, {"input": " ", "prompt": None}):
        row = {"instruction": "Ask", "output": "Say", **extra}
        (form,) = forms_of(row)
        read = read_row(row, form)
        assert not isinstance(read, list) and pair_prompt(read.document()) == "Ask\n"


def chat(*roles: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": f"by {role}"} for role in roles], **more}


def turns(*texts: str) -> dict[str, Any]:
    pairs = zip(("user", "assistant") * len(texts), texts, strict=False)
    return {"messages": [{"role": role, "content": text} for role, text in pairs]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": "Ask", "response": " \n"}, "field 'response': empty or blank"),
    ({"prompt": "", "response": "Say"}, "field 'prompt': empty or blank"),
    ({"prompt": "Ask", "response": None}, "field 'response': null, not a string"),
    ({"prompt": "Ask", "response": 4}, "field 'response': a number, not a string"),
    ({"prompt": "Ask", "response": "Say", "history": [["a", "b"]]}, "column 'history': not read"),
    (chat("user"), "the conversation ends with the user"),
    (chat("system"), "the conversation ends with the system"),
    (chat(), "the conversation has no turns"),
    (chat("assistant"), "no turn of the user"),
    (chat("user", "system", "assistant"), "a system text after the first turn"),
    (chat("user", "tool", "assistant"), "not one of 'system', 'user', 'assistant'"),
    (chat("user", "assistant", tools=["x"]), "column 'tools': not read"),
    (turns("Hi", " "), "turn 2 (assistant): empty or blank"),
    (turns("\t", "Ho"), "turn 1 (user): empty or blank"),
    ({"messages": "Hi"}, "field 'messages': a string, not a list"),
    ({"messages": [{"role": "user"}]}, "field 'messages.0.content'"),
]


@pytest.mark.parametrize(("row", "says"), BAD, ids=[says for _, says in BAD])
def test_a_row_that_teaches_nothing_is_refused(row: dict[str, Any], says: str) -> None:
    (form,) = forms_of(row)
    found = read_row(row, form)
    assert isinstance(found, list) and says in found[0]


def made(tmp_path: Path, rows: Sequence[Any], **given: Any) -> OwnTask:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return own_task("mine", StageData(str(file), **{"holdout": 1, **given}), scored=True)


GOOD = {"prompt": "Ask", "response": "Say"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([GOOD, chat("user", "assistant")], "line 2: a row of the form messages, among rows of"),
        ([{**GOOD, "answer": "x"}], "line 1: its columns fit prompt/response and prompt/answer"),
        ([{"text": "x", "team": "y"}], "line 1: of no known form (it has text, team); known: mess"),
        ([["x"]], "row 1: of no known form (not an object)"),
        ([GOOD, {"prompt": "x"}, {"prompt": "y"}], "line 2-3: field 'response': missing"),
        ([GOOD, 7], "line 2: a number, not an object"),
    ],
)
def test_files_of_several_forms_are_refused(rows: list[Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        made(tmp_path, rows)
    assert says in str(caught.value)


def test_faults_come_together_and_are_counted(tmp_path: Path) -> None:
    bad = [{"prompt": f"{i}", "response": " ", f"x{i}": i} for i in range(3)]
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(chat("user", "user")) + "\n" for _ in range(2)))
    odd = [{"prompt": f"{i}", "response": ["x"] * (i % 2)} for i in range(3)]
    with pytest.raises(UserError) as caught:
        made(tmp_path, [GOOD, *bad, *odd], holdout=None, test=str(tmp_path / "absent.csv"))
    faults = caught.value.faults
    assert len(faults) == 3 and "line 2-4: field 'response': empty or blank" in faults[0]
    assert "line 5-7" in faults[1] and "absent.csv: not found" in faults[2]
    many = [{"prompt": "x", "response": "y", "messages": i} for i in range(2)]
    many = [GOOD, *({"prompt": "p", f"c{i}": 1} for i in range(60)), *many]
    with pytest.raises(UserError) as caught:
        made(tmp_path, many)
    assert len(caught.value.faults) == 21 and "and 40 more faults" in caught.value.faults[-1]


def test_the_answers_choose_the_score() -> None:
    assert metrics_for(["yes", "no"] * 5)[0] == "exact_match"
    assert metrics_for(["yes"] * 9 + ["two\nlines"])[0] == "exact_match"
    assert metrics_for(["yes"] * 8 + ["two\nlines"] * 2)[0] == "rouge_l"
    assert metrics_for(["one two three four five six seven eight nine"] * 3)[0] == "rouge_l"
    assert metrics_for(["答えは五文字以上です"] * 3)[0] == "rouge_l"


def test_labels_are_few_answers_that_come_often() -> None:
    assert labels_in(["b", "a "] * 5) == ["a", "b"]
    assert labels_in(["a"] * 10) == [] and labels_in(["a", "b"] * 4) == []
    assert labels_in([str(i) for i in range(21)] * 9) == []


def test_every_metric_gives_one_to_the_gold_answer(tmp_path: Path) -> None:
    assert set(METRICS) == set(OwnMetric.__args__)  # type: ignore[attr-defined]
    for gold in ("42", "The parcel is late.", "返品", "…", "a\nb c d e"):
        assert all(abs(score(gold, gold) - 1) < 1e-9 for score in METRICS.values()), gold
        assert all(score("", gold) == 0 for score in METRICS.values())
    task = made(tmp_path, [GOOD, {"prompt": "B", "response": "x y"}], metrics=("contains", "bleu"))
    assert task.config["metadata"]["headline"] == "contains"
    score = task.config["process_results"]
    document = {"turns": [{"role": "user", "content": "B"}, {"role": "assistant", "content": "x"}]}
    assert score(document, ["well, X y"])["contains"] == 1


def test_generation_ends_where_no_answer_goes_on(tmp_path: Path) -> None:
    rows = [{"prompt": str(i), "response": "é" * i} for i in range(1, 5)]
    kwargs = made(tmp_path, rows).config["generation_kwargs"]
    assert kwargs["until"] == ["\n"] and kwargs["max_gen_toks"] == 8 + 8
    rows.append({"prompt": "more", "response": "a\n" * 400 + "b"})
    kwargs = made(tmp_path, rows).config["generation_kwargs"]
    assert kwargs["until"] == [] and kwargs["max_gen_toks"] == 512
    long = turns("Hi", "a\nb")
    assert made(tmp_path, [long, turns("Ho", "c")]).config["generation_kwargs"]["until"] == [
        "\n\nUser:"
    ]
    quoting = turns("Ha", "So:\n\nUser: x")
    assert made(tmp_path, [long, quoting]).config["generation_kwargs"]["until"] == []


def test_a_task_is_named_after_its_file() -> None:
    names = {
        "/data/jan.jsonl": "jan",
        "/data/2026.01.csv": "2026.01",
        "/data/März 26.JSON": "März_26",
        "/data/folder/": "folder",
        "hf://owner/a-set@main": "a-set",
        "hf://owner/a-set:de": "a-set-de",
    }
    assert {given: name_of_data(given) for given in names} == names


@given(st.text("ab cD1-_.,\n", max_size=24), st.text("ab cD1-_.,\n", max_size=24))
def test_rouge_l_of_ascii_is_that_of_the_package(first: str, second: str) -> None:
    if words(first) or words(second):
        assert rouge_l_any_script(first, second) == pytest.approx(rouge_score_l(first, second))


@pytest.mark.parametrize(
    ("prediction", "reference", "common", "lengths"),
    [
        ("返品は可能", "返品可", 3, (5, 3)),
        ("Größe ist groß", "größe: GROSS", 1, (3, 2)),
        ("สวัสดี", "สวัส", 4, (6, 4)),
    ],
)
def test_rouge_l_reads_every_script(
    prediction: str, reference: str, common: int, lengths: tuple[int, int]
) -> None:
    assert rouge_l_any_script(prediction, reference) == pytest.approx(2 * common / sum(lengths))

"""Cutting a prompt: bounds, the suffix rule, instruction and cue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cl_bench.data.truncation import instruction_and_cue, truncate_prompt

IDS = st.lists(st.integers(0, 9), max_size=40)
LIMIT = st.integers(1, 50)
MODE = st.sampled_from(["left", "keep_instruction", "trace"])
COUNT = st.integers(0, 45)


@given(IDS, LIMIT, MODE, COUNT, COUNT)
def test_the_limit_holds_and_short_prompts_stay(ids, limit, mode, head, cue):
    cut = truncate_prompt(ids, limit, mode, head=head, cue=cue)
    assert len(cut) == min(len(ids), limit)
    if len(ids) <= limit:
        assert cut == ids


@given(IDS, LIMIT, st.sampled_from(["left", "trace"]), COUNT)
def test_left_keeps_the_end(ids, limit, mode, head):
    assert truncate_prompt(ids, limit, mode, head=head) == ids[-limit:]


@given(IDS, LIMIT, COUNT, COUNT)
def test_keep_instruction_keeps_head_and_cue_or_is_left(ids, limit, head, cue):
    cut = truncate_prompt(ids, limit, "keep_instruction", head=head, cue=cue)
    if len(ids) > limit and head + cue <= limit and head < limit and head <= len(ids) / 2:
        assert cut == ids[:head] + ids[len(ids) - limit + head :]
        assert cut[len(cut) - cue :] == ids[len(ids) - cue :]
    else:
        assert cut == ids[-limit:]


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        truncate_prompt([1], 0, "left")


@pytest.mark.parametrize(
    ("instruction", "body", "cue"),
    [
        ("Which stance? A or B.\nText:\n", "some text: and\nmore of it.", "\nStance:"),
        ("选择一项：A，B，C。\n文本：\n", "一些文本。\n对象：\n口罩", "\n态度："),
        ("Choose an answer.\n\nQuestion:\n", "Why?\n\nChoices:\nA. x\n", "\nAnswer:"),
        ("Simplify.\n\nParagraph:\n", "Ein Satz.\n", "\nSimplification:"),
        ("Say it in German.\n", "One long line without a cue", ""),
        ("Say it.\n\n### Input:\n", "words\n", "\n### Response:\n"),
    ],
)
def test_the_parts_of_a_prompt_are_found(instruction, body, cue):
    end, begin = instruction_and_cue(instruction + body + cue)
    prompt = instruction + body + cue
    assert prompt[:end] == instruction
    assert prompt[begin:] == cue


@pytest.mark.parametrize("prompt", ["", "import os <EOL> x = 1 <EOL>", "Answer:"])
def test_one_line_has_neither_instruction_nor_cue(prompt):
    assert instruction_and_cue(prompt) == (0, len(prompt))


@given(st.text(alphabet="ab:\n ", max_size=30))
def test_the_parts_never_overlap(prompt):
    end, begin = instruction_and_cue(prompt)
    assert 0 <= end <= begin <= len(prompt)


def test_a_paragraph_that_ends_in_a_colon_is_no_label():
    body = "A whole paragraph of the text that is to be simplified, and it ends in a colon:"
    prompt = f"Simplify this.\n\nParagraph:\n{body}\n\nSimplification:"
    end, begin = instruction_and_cue(prompt)
    assert prompt[:end] == "Simplify this.\n\nParagraph:\n"
    assert prompt[begin:] == "\nSimplification:"

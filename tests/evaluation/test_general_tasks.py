"""The General suite's YAMLs: every member is there, and asks what lm-eval's packaged task asks."""

from __future__ import annotations

import json
import socket
from collections import Counter
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

from cl_bench.data.loading import load_task_set, quiet_lm_eval
from cl_bench.data.tasks import packaged_files
from cl_bench.errors import UserError

SIZES = {"general_mmlu": 57, "general_bbh": 27, "general_tydiqa": 9, "general_gsm8k": 1}
DOCUMENTS = {
    "general_mmlu": 14042,
    "general_bbh": 6511,
    "general_tydiqa": 5077,
    "general_gsm8k": 1319,
}
PACKAGED = {
    "mmlu_anatomy": ("mmlu", "dev"),
    "mmlu_high_school_us_history": ("mmlu", "dev"),
    "bbh_cot_fewshot_hyperbaton": ("bbh", None),
    "bbh_cot_fewshot_web_of_lies": ("bbh", None),
    "tydiqa_goldp_ar": ("tydiqa", None),
    "tydiqa_goldp_sw": ("tydiqa", None),
    "general_gsm8k": ("gsm8k", "train"),
}


@pytest.fixture(scope="module")
def suite(shared_dir):
    return load_task_set(SIZES, shared_dir / "data")


def packaged_task(name: str, ours):
    """lm-eval's own task of that name over the documents of ours."""
    name = name.removeprefix("general_")
    (path,) = packaged_files([name]).values()
    splits = {
        "test": "test",
        "validation": "validation",
        "dev": "dev",
        "train": "train",
    }
    dataset = {split: ours.dataset[split] for split in splits if split in ours.dataset}
    overrides = {"task": name, "custom_dataset": lambda **_: dataset, "process_docs": None}
    if "train" not in dataset:
        overrides |= {"training_split": None}
        if ours.config.fewshot_split is None:
            overrides |= {"fewshot_split": None}
    manager = TaskManager(include_path=[str(path.parent)], include_defaults=False)
    entry = manager.task_index[name]
    return manager._factory.build(entry, overrides=overrides, registry=manager.task_index)


def test_every_member_is_there_with_all_its_documents(suite):
    assert {name: len(suite.members[name]) for name in SIZES} == SIZES
    for name, members in suite.members.items():
        assert sum(len(suite.tasks[m].eval_docs) for m in members) == DOCUMENTS[name]
    packaged = packaged_files(suite.tasks)
    assert len(packaged) == 57 + 27 + 9


@pytest.mark.parametrize("name", PACKAGED)
def test_prompts_are_those_of_the_packaged_task(suite, name):
    ours = suite.tasks[name]
    with quiet_lm_eval():
        theirs = packaged_task(name, ours)
    theirs.sampler = type(ours.sampler)(list(ours.fewshot_docs() or []))
    shots = ours.config.num_fewshot
    for i in (0, 1, len(ours.eval_docs) - 1):
        doc = ours.eval_docs[i]
        assert ours.fewshot_context(doc, shots) == theirs.fewshot_context(doc, shots)
        assert ours.doc_to_target(doc) == theirs.doc_to_target(doc)
        if ours.OUTPUT_TYPE == "multiple_choice":
            assert ours.doc_to_choice(doc) == theirs.doc_to_choice(doc)


@pytest.mark.parametrize("name", PACKAGED)
def test_answers_are_scored_as_the_packaged_task_scores_them(suite, name):
    ours = suite.tasks[name]
    with quiet_lm_eval():
        theirs = packaged_task(name, ours)
    assert ours.config.metric_list == theirs.config.metric_list
    assert ours.config.filter_list == theirs.config.filter_list
    assert ours.OUTPUT_TYPE == theirs.OUTPUT_TYPE
    kept = ("until", "do_sample", "temperature", "max_gen_toks")
    settings = [task.config.generation_kwargs or {} for task in (ours, theirs)]
    assert [settings[0].get(key) for key in kept] == [settings[1].get(key) for key in kept]
    for i in range(3):
        doc = ours.eval_docs[i]
        if ours.OUTPUT_TYPE == "multiple_choice":
            results = [(-1.0, False), (-2.0, False), (-0.5, True), (-3.0, False)]
        else:
            gold = ours.doc_to_target(doc)
            results = [gold if isinstance(gold, str) else gold[0]]
        assert ours.process_results(doc, results) == theirs.process_results(doc, results)


def test_shots_are_the_pinned_ones(suite, shared_dir):
    rows = [
        json.loads(line)
        for line in (shared_dir / "data/general/mmlu/dev.jsonl").read_text().splitlines()
    ]
    anatomy = [row["question"] for row in rows if row["subject"] == "anatomy"]
    task = suite.tasks["mmlu_anatomy"]
    context = task.fewshot_context(task.eval_docs[0], 5)
    places = [context.index(question.strip()) for question in anatomy]
    assert len(places) == 5
    assert places == sorted(places)
    assert suite.tasks["bbh_cot_fewshot_snarks"].config.num_fewshot == 3
    assert suite.tasks["tydiqa_goldp_ko"].config.num_fewshot == 0
    gsm8k = suite.tasks["general_gsm8k"]
    assert gsm8k.config.num_fewshot == 5
    contexts = [gsm8k.fewshot_context(gsm8k.eval_docs[i], 5) for i in (0, 7, 0)]
    assert contexts[0] == contexts[2]
    headers = {context.rsplit("Question:", 1)[0] for context in contexts}
    assert len(headers) == 1, "every problem has the same five shots"


def test_bbh_prompts_are_the_published_ones(suite, shared_dir):
    lines = (shared_dir / "data/general/bbh/dev.jsonl").read_text().splitlines()
    published = {row["task"]: row["cot_prompt"] for row in map(json.loads, lines)}
    same = Counter()
    for name in suite.members["general_bbh"]:
        problem = name.removeprefix("bbh_cot_fewshot_")
        prompt = published[problem].split("-----\n", 1)[1].strip()
        task = suite.tasks[name]
        context = task.fewshot_context(task.eval_docs[0], 3)
        same[context.split()[: len(prompt.split())] == prompt.split()] += 1
    assert same[True] >= 25, "lm-eval reworded the shots of at most two sub-tasks"


def test_headlines_are_those_of_the_suite(suite):
    assert suite.tasks["tydiqa_goldp_ar"].config.metadata["headline"] == "f1"
    metadata = suite.tasks["general_gsm8k"].config.metadata
    assert (metadata["headline"], metadata["filter"]) == ("exact_match", "flexible-extract")


def small_root(tmp_path: Path, name: str, **files: list[dict]) -> Path:
    folder = tmp_path / "general" / name
    folder.mkdir(parents=True)
    for split, rows in files.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_wrong_fields_are_named_with_their_line(tmp_path):
    good = {"subject": "anatomy", "question": "q", "A": "a", "B": "b", "C": "c", "D": "d"}
    rows = [good | {"answer": "A"}, good | {"answer": "E"}, {"subject": "anatomy"}]
    root = small_root(tmp_path, "mmlu", test=rows, dev=rows[:1])
    with pytest.raises(UserError) as error:
        load_task_set(["general_mmlu"], root)
    text = str(error.value)
    assert "test.jsonl" in text
    assert "line 2: field 'answer': not one of 'A'" in text
    assert "line 3: field 'question': missing" in text


def test_an_incomplete_folder_is_an_error_not_a_download(tmp_path):
    row = {"question": "q", "answer": "a #### 1"}
    root = small_root(tmp_path, "gsm8k", test=[row])
    with pytest.raises(UserError, match=r"train\.jsonl: not found"):
        load_task_set(["general_gsm8k"], root)


def test_a_member_without_rows_is_an_error(tmp_path):
    row = {"task": "snarks", "input": "i", "target": "t"}
    root = small_root(tmp_path, "bbh", test=[row])
    with pytest.raises(UserError, match="no row has task 'boolean_expressions'"):
        load_task_set(["general_bbh"], root)


def test_without_files_the_hub_is_asked(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("general_gsm8k", "general_tydiqa"):
        with pytest.raises(UserError, match=r"test\.jsonl: not found, and the Hub's"):
            load_task_set([name], tmp_path)

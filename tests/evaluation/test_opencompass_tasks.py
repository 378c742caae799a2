"""The tasks of the protocol opencompass-2023 on invented data: prompts, rules, scores."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import pytest
from lm_eval.api.model import LM

from cl_bench.data.loading import load_task_set
from cl_bench.errors import UserError
from cl_bench.evaluation.engines.choice import Engine
from cl_bench.evaluation.engines.opened import Subject
from cl_bench.evaluation.harness import evaluate_tasks
from cl_bench.evaluation.recorded import how_measured
from cl_bench.evaluation.shared_prefix.lm import SharedPrefixLM
from cl_bench.evaluation.units import Unit, answering
from tests.helpers.engine_oracle import hflm, mean_cross_entropy
from tests.helpers.general_rows import rows
from tests.helpers.tiny import byte_tokenizer, tiny_model

NAMES = [f"opencompass_{name}" for name in ("mmlu", "bbh", "tydiqa", "boolq", "piqa", "gsm8k")]
SIZES = [57, 27, 9, 1, 1, 1]
# sha256 of OpenCompass's own prompts (commit d7ff933) for the questions below, first 16 digits.
PUBLISHED = {
    "opencompass_gsm8k": "f6a6c76f94106fa0",
    "tydiqa_goldp_ar": "fdcb044c14b5aec8",
    "tydiqa_goldp_bn": "0232fbfc78d19202",
    "tydiqa_goldp_en": "3d137e0979220a77",
    "tydiqa_goldp_fi": "8cc7024a92253a77",
    "tydiqa_goldp_id": "e6b922ff7ede4684",
    "tydiqa_goldp_ko": "5991b59fee49a88f",
    "tydiqa_goldp_ru": "d19e25635ebc3902",
    "tydiqa_goldp_sw": "a89e387c8407d97c",
    "tydiqa_goldp_te": "81044755e076ff59",
}
FREE = {
    *("multistep_arithmetic_two", "navigate", "dyck_languages", "word_sorting"),
    *("sports_understanding", "boolean_expressions", "object_counting"),
    *("formal_fallacies", "causal_judgement", "web_of_lies"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name, lines in rows().items():
        file = root / "general" / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def suite(root):
    return load_task_set(NAMES, root)


def whole_prompts(task, i: int) -> list[tuple[str, tuple[int, ...], int]]:
    doc = task.eval_docs[i]
    context = task.fewshot_context(doc, task.config.num_fewshot)
    return [r.arguments for r in task.construct_requests(doc, context, metadata=("", i, 1))]


def test_every_member_is_there(suite):
    assert [len(suite.members[name]) for name in NAMES] == SIZES


def test_mmlu_prompts(suite):
    found = whole_prompts(suite.tasks["mmlu_college_biology"], 2)
    header = (
        "The following are multiple choice questions (with answers) about  college biology.\n\n"
    )

    def question(i: int) -> str:
        return f" college_biology {i}? \nA. one\nB. two\nC. {i}\nD. four\nAnswer: "

    shots = [f"{question(i)}{'ABCD'[i % 4]}\n\n" for i in range(5)]
    assert [prompt for prompt, _, _ in found] == [
        header + "".join(shots) + question(2) + letter for letter in "ABCD"
    ]
    prompt, ends, window = found[0]
    assert [prompt[a:b] for a, b in pairwise(ends)] == shots
    assert (prompt[: ends[0]], window) == (header, 2048)


def test_prompts_of_two_choices(suite):
    assert whole_prompts(suite.tasks["opencompass_boolq"], 3) == [
        ("P3 -- x.\nQuestion: is it 3?\nNo", (0,), 2048),
        ("P3 -- x.\nQuestion: is it 3?\nYes", (0,), 2048),
    ]
    assert whole_prompts(suite.tasks["opencompass_piqa"], 1) == [
        ("The following makes sense: \nQ: g 1\nA: xx\n", (0,), 2048),
        ("The following makes sense: \nQ: g 1\nA: no\n", (0,), 2048),
    ]


def test_prompts_of_generated_answers(suite):
    found = {}
    for name in PUBLISHED:
        task = suite.tasks[name]
        prompt = task.fewshot_context(task.eval_docs[0], task.config.num_fewshot)
        found[name] = hashlib.sha256(prompt.encode()).hexdigest()[:16]
    assert found == PUBLISHED
    task = suite.tasks["bbh_cot_fewshot_snarks"]
    assert task.fewshot_context(task.eval_docs[0], task.config.num_fewshot) == (
        "Follow the given examples and answer the question.\nDo snarks.\n\nQ: a\n\n"
        "Q: 1 or 2?\nA: Let's think step by step."
    )


def test_sub_tasks_of_bbh_have_the_rule_of_their_kind(suite):
    free = {
        name.removeprefix("bbh_cot_fewshot_")
        for name in suite.members["opencompass_bbh"]
        if suite.tasks[name].config.process_results.__name__ == "bbh_free"
    }
    assert free == FREE


@pytest.mark.parametrize("engine", [SharedPrefixLM, hflm])
def test_the_choice_is_the_whole_prompt_with_the_lowest_loss(suite, engine):
    model, tokenizer = tiny_model(kind="qwen2", seed=7), byte_tokenizer()
    names = ["mmlu_virology", "opencompass_boolq", "opencompass_piqa"]
    tasks = {name: suite.tasks[name] for name in names}
    documents = {name: range(len(task.eval_docs)) for name, task in tasks.items()}
    results = evaluate_tasks(engine(model, tokenizer), tasks, documents)
    for name, task in tasks.items():
        scores = []
        for i, doc in enumerate(task.eval_docs):
            losses = [
                mean_cross_entropy(model, tokenizer, prompt)[0]
                for prompt, _, _ in whole_prompts(task, i)
            ]
            scores.append(float(losses.index(min(losses)) == task.doc_to_target(doc)))
            record = results[name].records[i]
            assert record["loglikelihoods"] == pytest.approx([-loss for loss in losses], abs=1e-5)
            assert record["choice"] == losses.index(min(losses))
        assert [record["score"] for record in results[name].records] == scores


def test_entries_say_how_they_were_measured(suite):
    lm = SharedPrefixLM(tiny_model(seed=7), byte_tokenizer())
    found = {}
    for name in ("opencompass_tydiqa", "opencompass_gsm8k", "opencompass_piqa"):
        tasks = {leaf: suite.tasks[leaf] for leaf in suite.members[name]}
        results = evaluate_tasks(lm, tasks, {leaf: [0] for leaf in tasks})
        found[name] = how_measured(tasks, results)
    keys = ("protocol", "task", "split", "shots", "metric")
    assert [[entry[key] for key in keys] for entry in found.values()] == [
        ["opencompass-2023", "tydiqa_goldp_*", "validation", "0", "f1"],
        ["opencompass-2023", "opencompass_gsm8k", "test", "4", "acc"],
        ["opencompass-2023", "opencompass_piqa", "validation", "0", "acc"],
    ]


def test_examples_of_bbh_are_needed(root, tmp_path):
    problems = root / "general/bbh/test.jsonl"
    copy = tmp_path / "general/bbh/test.jsonl"
    copy.parent.mkdir(parents=True)
    copy.write_text(problems.read_text())
    with pytest.raises(UserError, match=r"dev\.jsonl: not found; BBH's worked examples"):
        load_task_set(["opencompass_bbh"], tmp_path)
    line = json.dumps({"task": "snarks", "cot_prompt": "no dashes"})
    copy.with_name("dev.jsonl").write_text(line + "\n")
    with pytest.raises(UserError) as error:
        load_task_set(["opencompass_bbh"], tmp_path)
    assert "no row has task 'boolean_expressions'" in str(error.value)


def test_a_task_cannot_be_scored_in_two_forms_at_once(root):
    with pytest.raises(UserError, match=r"mmlu_abstract_algebra, .* is part of another task"):
        load_task_set(["opencompass_mmlu", "general_mmlu"], root)


@pytest.mark.parametrize("engine", ["cl-bench", "hf"])
def test_prompts_of_generated_answers_leave_room_in_2048_tokens(suite, engine):
    model, tokenizer = tiny_model(seed=7), byte_tokenizer()
    model.config.max_position_embeddings = 8192
    task = suite.tasks["opencompass_gsm8k"]
    ids = tokenizer(task.fewshot_context(task.eval_docs[0], 0), return_tensors="pt").input_ids
    assert ids.shape[1] > 2048
    new = model.generate(ids[:, -(2048 - 512) :], max_new_tokens=512, do_sample=False)
    expected = tokenizer.decode(new[0, 2048 - 512 :], skip_special_tokens=True)
    unit = Unit("general", "gsm8k", {"opencompass_gsm8k": task}, {"opencompass_gsm8k": [0]})
    with answering(Engine(engine), Subject(model, tokenizer)) as answer:
        (record,) = answer(unit).results["opencompass_gsm8k"].records
    assert record["prediction"] == expected.split("\n\n")[0]


class Parrot(LM):
    """Gives every generation request the same text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def generate_until(self, requests, disable_tqdm=False):
        return [self.text for _ in requests]

    loglikelihood = loglikelihood_rolling = generate_until


@pytest.mark.parametrize(
    ("name", "text", "score"),
    [
        ("bbh_cot_fewshot_snarks", "\nSo the answer is (A).", 1.0),
        ("bbh_cot_fewshot_snarks", "\nSo the answer is (B), not (A).", 0.0),
        ("bbh_cot_fewshot_navigate", "\nSo the answer is (A).", 1.0),
        ("bbh_cot_fewshot_navigate", "\nSo the answer is A.", 0.0),
        ("tydiqa_goldp_fi", "No one", 1.0),
        ("opencompass_gsm8k", "Then 2 - 1\nis 1.", 1.0),
    ],
)
def test_generated_answers_are_scored_by_the_rules(suite, name, text, score):
    (result,) = evaluate_tasks(Parrot(text), {name: suite.tasks[name]}, {name: [0]}).values()
    assert result.cell.score == score
    assert result.records[0]["prediction"] == text

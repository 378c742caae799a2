"""The eight generated stage tasks: whole, deterministic, and right."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from cl_bench.data.examples import training_examples
from cl_bench.data.generated import item_splits, prompt_splits
from cl_bench.metrics.trace_tasks import TASKS as TRACE_TASKS
from cl_bench.resources import resource
from tests.helpers.documents import checksum, load, splits

ANSWERS = {
    "mini_cstance": "[ABC]",
    "mini_fomc": "[ABC]",
    "mini_meetingbank": r"Bill \d{3} on \d0 thousand dollars for the [a-z]+ [a-z]+ (pass|fail)ed\.",
    "mini_py150": r"[a-z][\w .()\[\]+=]*",
    "mini_scienceqa": r"[ABC]\nIt [a-z]+( [a-z]+)+\.",
    "mini_numglue_cm": r"[1-9]\d?",
    "mini_numglue_ds": r"[1-9]\d?",
    "mini_20minuten": r"In [A-Z][a-z]+ [\w .]+\.",
}
STAGES = sorted(ANSWERS)


def test_every_task_resolves_with_trace_metrics(tasks):
    mini = {name for name in tasks if name in ANSWERS}
    assert mini == {name.replace("trace_", "mini_") for name in TRACE_TASKS} == set(ANSWERS)
    for name in STAGES:
        config = tasks[name].config
        assert "not comparable with TRACE" in config.metadata["note"]
        assert config.output_type == "generate_until"
        assert config.validation_split is None
        assert config.metric_list[0]["metric"] == "score"
        first_line = (resource("tasks") / "mini" / f"{name[5:]}.yaml").read_text().split("\n")[0]
        assert first_line.startswith("#")
        assert "Not comparable with TRACE" in first_line


def test_the_same_documents_in_another_process(tasks):
    program = (
        "import json; from tests.helpers.documents import checksum, load;"
        "print(json.dumps({name: checksum(task) for name, task in load().items()}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "77", "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        cwd=resource("tasks").parent,
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {name: checksum(task) for name, task in tasks.items()}
    assert json.loads(done.stdout) == ours == {name: checksum(t) for name, t in load().items()}


@pytest.mark.parametrize("name", STAGES)
def test_splits_are_distinct_and_large_enough(tasks, name):
    rows = splits(tasks[name])
    assert rows.keys() == {"train", "test"}
    train, test = ({row["prompt"] for row in rows[split]} for split in ("train", "test"))
    assert (len(train), len(test)) == (len(rows["train"]), len(rows["test"]))
    assert not train & test
    assert 128 <= len(train) <= 512
    assert len(test) == 64


@pytest.mark.parametrize("name", STAGES)
def test_answers_have_their_form_and_score_the_maximum(tasks, name):
    task = tasks[name]
    for row in splits(task)["train"] + splits(task)["test"]:
        assert re.fullmatch(ANSWERS[name], row["answer"]), row
        metrics = task.process_results(row, [row["answer"]])
        # SARI counts words, so that a full stop used twice costs an exact answer a little.
        assert metrics["score"] == pytest.approx(1.0, abs=0.01 if "sari" in metrics else 1e-7)
        assert metrics["unscorable"] == 0.0
        assert set(metrics) == {entry["metric"] for entry in task.config.metric_list}
        assert task.process_results(row, ["zzz"])["score"] < 0.5


@pytest.mark.parametrize("name", STAGES)
def test_training_sees_prompt_and_answer_as_they_are(tasks, name):
    examples = training_examples(tasks[name], 5, seed=0)
    rows = splits(tasks[name])["train"]
    assert [(e.prompt, e.answer) for e in examples] == [
        (rows[e.doc_id]["prompt"], rows[e.doc_id]["answer"]) for e in examples
    ]


@pytest.mark.parametrize("name", ["mini_cstance", "mini_fomc", "mini_scienceqa"])
def test_no_constant_answer_is_good(tasks, name):
    for rows in splits(tasks[name]).values():
        letters = [row["answer"][0] for row in rows]
        assert set(letters) == set("ABC")
        assert max(letters.count(letter) for letter in "ABC") / len(letters) < 0.45


def test_stances_follow_their_words(tasks):
    cues = {
        "mini_cstance": {
            "A": "喜欢|真好|我爱",
            "B": "讨厌|太差|反对.*。\n对",
            "C": "有人|什么|新闻",
        },
        "mini_fomc": {
            "A": "lower rates|cut|easier|leave room",
            "B": "higher rates|raised|tighter|no room",
            "C": "meeting|report|volumes|survey",
        },
    }
    for name, patterns in cues.items():
        for row in splits(tasks[name])["train"]:
            body = row["prompt"].split("\n", 1)[1]
            found = [label for label, pattern in patterns.items() if re.search(pattern, body)]
            assert found == [row["answer"]], row


def test_numbers_are_right(tasks):
    each = {"bicycles": 2, "coats": 2, "tricycles": 3, "cars": 4, "dogs": 4, "hands": 5}
    for row in splits(tasks["mini_numglue_cm"])["train"]:
        count, thing = re.search(r"counts (\d) (\w+)\.", row["prompt"]).groups()
        assert int(row["answer"]) == int(count) * each[thing]
    for row in splits(tasks["mini_numglue_ds"])["train"]:
        one, unit, two, other = re.search(r"(\d+) (\w+) \+ (\d+) (\w+)", row["prompt"]).groups()
        assert unit == other
        assert int(row["answer"]) == int(one) + int(two)


def test_texts_agree_with_their_source(tasks):
    for row in splits(tasks["mini_meetingbank"])["train"]:
        words = row["answer"].removesuffix(".").split()
        assert set(words[:-1]) <= {"Bill", "on", *re.findall(r"\w+", row["prompt"])}
        assert (words[-1] == "passed") == ("It passes" in row["prompt"])
    for row in splits(tasks["mini_20minuten"])["train"]:
        place = re.match(r"In (\w+) ", row["answer"]).group(1)
        assert re.search(rf"\b{place}\b", row["prompt"])
        assert len(row["answer"]) < len(row["prompt"])
        for count in ("zwei", "drei", "vier"):
            assert count not in row["answer"] or count in row["prompt"]


def test_code_is_python(tasks):
    for row in splits(tasks["mini_py150"])["train"]:
        code = row["prompt"].removeprefix("<s> ")
        assert code.endswith(" <EOL>")
        lines = [line.strip() for line in code.split("<EOL>")[:-1]] + [row["answer"]]
        indent, program = 0, []
        for line in lines:
            program.append("    " * indent + line)
            indent += line.endswith(":")
        compile("\n".join(program), row["prompt"], "exec")


def test_science_asks_about_things_that_training_did_not_have(tasks):
    rows = splits(tasks["mini_scienceqa"])
    asked = re.compile(r"What is the (\w+), which (.+)\?\n\nA\. animal\nB\. plant\nC\. object\n")
    letters: dict[str, set[str]] = {}
    things: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, row in [(name, row) for name in rows for row in rows[name]]:
        thing, fact = asked.search(row["prompt"]).groups()
        letter, reason = row["answer"].split("\n")
        assert reason == f"It {fact}."
        things[split].add(thing)
        for clue in (thing, fact):
            letters.setdefault(clue, set()).add(letter)
    assert not things["train"] & things["test"]
    assert all(len(each) == 1 for each in letters.values())


def test_yaml_files_are_all_loaded(tasks):
    names = {
        re.search(r"^task: (\S+)$", path.read_text(), re.MULTILINE).group(1)
        for path in (resource("tasks") / "mini").glob("*.yaml")
    }
    assert names == set(tasks)


def test_prompts_are_short():
    """The demo runs on two CPU cores: a prompt is a few dozen words or Chinese signs."""
    for name, task in load().items():
        if name in ANSWERS:
            longest = max(len(row["prompt"].encode()) for row in splits(task)["train"])
            assert longest < 300, name


def test_generator_faults_are_found():
    pairs = [(f"prompt {i}", "answer") for i in range(200)]
    rows = prompt_splits("x", iter(pairs))
    assert (len(rows["train"]), len(rows["test"])) == (136, 64)
    with pytest.raises(ValueError, match="x: a prompt was generated twice"):
        prompt_splits("x", [*pairs, pairs[0]])
    with pytest.raises(ValueError, match="only 191 prompts"):
        prompt_splits("x", pairs[:191])
    with pytest.raises(ValueError, match="a prompt is in both splits"):
        item_splits("x", pairs[:10], pairs[9:20])

"""Templates of tasks."""

from __future__ import annotations

import json
from pathlib import Path

import jinja2
import pytest
import yaml
from lm_eval import utils

from cl_bench.data.loading import load_task_set, load_tasks
from cl_bench.errors import UserError


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load_tasks(["mini_fomc"])
    compiled = []
    compile_template = jinja2.Environment.compile

    def note(self, source, *rest, **more):
        compiled.append(source)
        return compile_template(self, source, *rest, **more)

    monkeypatch.setattr(jinja2.Environment, "compile", note)
    found = [utils.apply_template("invented: {{word}}", {"word": word}) for word in "ab"]
    assert found == ["invented: a", "invented: b"]
    assert compiled == ["invented: {{word}}"]


@pytest.mark.parametrize(
    "template",
    [
        "{{q}} {{ ''.__class__.__mro__ }}",
        "{{q}} {{ q.__init__.__globals__ }}",
        "{% for i in range(999999999) %}{{q}}{% endfor %}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(template: str, tmp_path: Path) -> None:
    rows = [{"q": "a", "a": "b"}, {"q": "c", "a": "d"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": "rows.jsonl", "test": "rows.jsonl"}},
        "training_split": "train",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": template,
        "doc_to_target": "a",
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(task))
    with pytest.raises(
        UserError, match=r"mine: could not be loaded \((SecurityError|OverflowError)"
    ):
        load_task_set(["mine"], task_paths=[str(tmp_path)], require_training=["mine"])


def test_what_templates_could_do_they_still_can() -> None:
    load_tasks(["mini_fomc"])
    template = "{{q|regex_replace('b', 'x')}}{{choices.index('y')}}{{ '%d' % n }}{{q.upper()}}\n"
    doc = {"q": "abc", "choices": ["x", "y"], "n": 3}
    assert utils.apply_template(template, doc) == "axc13ABC\n"

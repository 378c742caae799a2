"""Templates of tasks."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest
from lm_eval import utils

from cl_bench.data.loading import load_task_set, load_tasks
from cl_bench.errors import UserError
from tests.helpers.own_task import own_task


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
    rows = [{"q": "a", "answer": "b"}, {"q": "c", "answer": "d"}]
    own_task(tmp_path, rows, doc_to_text=template)
    with pytest.raises(
        UserError, match=r"mine: could not be loaded \((SecurityError|OverflowError)"
    ):
        load_task_set(["mine"], task_paths=[str(tmp_path)], require_training=["mine"])


def test_what_templates_could_do_they_still_can() -> None:
    load_tasks(["mini_fomc"])
    template = "{{q|regex_replace('b', 'x')}}{{choices.index('y')}}{{ '%d' % n }}{{q.upper()}}\n"
    doc = {"q": "abc", "choices": ["x", "y"], "n": 3}
    assert utils.apply_template(template, doc) == "axc13ABC\n"

"""Templates of tasks."""

from __future__ import annotations

import jinja2
import pytest
from lm_eval.utils import apply_template

from cl_bench.data.loading import load_tasks


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    load_tasks(["mini_fomc"])
    compiled = []
    compile_template = jinja2.Environment.compile

    def note(self, source, *rest, **more):
        compiled.append(source)
        return compile_template(self, source, *rest, **more)

    monkeypatch.setattr(jinja2.Environment, "compile", note)
    found = [apply_template("invented: {{word}}", {"word": word}) for word in "ab"]
    assert found == ["invented: a", "invented: b"]
    assert compiled == ["invented: {{word}}"]

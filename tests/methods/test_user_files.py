"""A method in a file of the user's own: run once, and every misunderstanding said at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cl_bench.errors import UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.registry import METHODS, hook_faults, method_class, method_from_file
from tests.helpers.configs import write

HEAD = "from cl_bench.methods.base import Method\n\n\nclass Mine(Method):\n    name = 'mine'\n"


def refused(folder: Path, text: str) -> str:
    file = folder / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        method_from_file(file)
    assert all(fault.startswith(str(file)) for fault in caught.value.faults)
    return "\n".join(caught.value.faults)


@pytest.mark.parametrize(
    ("member", "expected"),
    [
        (
            "def before_steps(self, step): ...",
            "before_steps: no hook or setting of a method (did you mean 'before_step'?)",
        ),
        ("def penalties(self, batch, outputs): ...", "did you mean 'penalty'?"),
        ("def afterStep(self, masters): ...", "did you mean 'after_step'?"),
        ("def state(self): ...", "Mine.state: no hook"),
        ("train_default = {'lr': 1}", "did you mean 'train_defaults'?"),
        ("adapter = True", "did you mean 'adapters'?"),
        ("@property\n    def strength(self): ...", "a helper's name begins with _"),
        ("def before_step(self): ...", "is called with (self, step)"),
        ("def penalty(self, batch, outputs, more): ...", "is called with (self, batch, outputs)"),
        ("@staticmethod\n    def finish(stage): ...", "must be a function of (self, stage)"),
        ("plan = None", "must be a function of (self, stage)"),
    ],
)
def test_what_is_no_hook_is_refused(tmp_path: Path, member: str, expected: str) -> None:
    assert expected in refused(tmp_path, f"{HEAD}\n    {member}\n")


def test_every_wrong_hook_of_the_class_and_its_helpers_is_listed(tmp_path: Path) -> None:
    text = (
        "from cl_bench.methods.base import Method\n"
        "class Helper:\n    def prepares(self, stage): ...\n"
        "class Mine(Helper, Method):\n    name = 'mine'\n    def finnish(self, stage): ...\n"
    )
    found = refused(tmp_path, text)
    assert "Mine.finnish" in found and "Helper.prepares" in found


def test_what_a_method_may_hold(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from typing import Literal\n"
        "from cl_bench.methods.base import Options\n"
        "from cl_bench.methods.ewc import EWC\n"
        "@dataclass\nclass Pair:\n    a: int\n"
        "class Own(Options):\n    how: Literal['a', 'b'] = 'a'\n"
        "class Mine(EWC):\n"
        "    name = 'mine'\n    options_type = Own\n    SCALE = 2\n    kept: int\n"
        "    class Inner: ...\n"
        "    def _helper(self): ...\n"
        "    def before_step(self, step, *more): ...\n"
        "    def finish(self, *args, **kwargs): ...\n"
    )
    found = method_from_file(file)
    assert found.name == "mine" and found(None).options.how == "a"


def test_the_shipped_methods_pass_the_same_questions() -> None:
    for name in METHODS:
        cls = method_class(name)
        copy = type(cls.__name__, cls.__mro__[1:2], dict(vars(cls)) | {"__module__": "elsewhere"})
        assert hook_faults(copy) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1\n", "holds no method"),
        ("from cl_bench.methods.ewc import EWC\n", "holds no method"),
        (
            HEAD + HEAD.replace("Mine", "Other"),
            "expected one subclass of Method, found 2: Mine, Other",
        ),
        (HEAD.replace("name = 'mine'", "pass"), "Mine has no name"),
        ("\nimport nothing_like_it\n", "line 2: cannot be loaded: ModuleNotFoundError"),
        ("def f():\n    1 / 0\nf()\n", "line 2: cannot be loaded: ZeroDivisionError"),
        ("def f(:\n", "cannot be loaded: SyntaxError"),
        ("import sys\nsys.exit(0)\n", "line 2: cannot be loaded: SystemExit"),
    ],
)
def test_files_that_hold_no_method(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path, text)


def test_a_file_is_run_once_until_it_changes(tmp_path: Path) -> None:
    file, log = tmp_path / "mine.py", tmp_path / "log"
    file.write_text(HEAD + f"\nopen({str(log)!r}, 'a').write('run ')\n")
    path = write(
        tmp_path,
        methods=["sft", {"file": "mine.py"}],
        stages=[{"task": t} for t in ("mini_fomc", "mini_cstance")],
    )
    first = resolve_file(path)[1][-1].stages[0].parts[0].method
    assert resolve_file(path)[1][-1].stages[1].parts[0].method is first
    assert log.read_text() == "run "
    file.write_text(file.read_text() + "\n# changed\n")
    os.utime(file, ns=(1, 1))
    assert method_from_file(file) is not first and log.read_text() == "run run "

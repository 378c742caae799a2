"""A method in a file of the user's own: run once, and every misunderstanding said at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cl_bench.cli import failures_reported
from cl_bench.errors import RunError, UserError
from cl_bench.experiment.resolve import resolve_file
from cl_bench.methods.base import kept_by
from cl_bench.methods.registry import METHODS, method_class
from cl_bench.methods.user_files import hook_faults, method_from_file, split_file, user_errors
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
        (
            "def state_dict(self): ...",
            "state_dict: no hook or setting of a method (did you mean 'state'?)",
        ),
        ("def load_state_dict(self, state): ...", "did you mean 'load_state'?"),
        ("def cost(self, shapes): ...", "Mine.cost: is called adds now, and returns only what"),
        ("def adds(self): ...", "is called with (self, shapes)"),
        ("def phases(self, stage, examples, epochs): ...", "phases: is called with (self, stage)"),
        ("keeps = 'example'", "keeps: 'example' (did you mean 'examples'?)"),
        ("def scored(self, stage):\n        yield stage.model", "put @contextmanager"),
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


def test_a_class_is_chosen_among_several(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}\n\n{HEAD.replace('Mine', 'Other').replace('mine', 'other')}")
    path = write(tmp_path, methods=[{"file": "mine.py:Mine"}, {"file": "mine.py:Other"}])
    runs = resolve_file(path).runs
    assert [run.label for run in runs] == ["Mine", "Other"]
    assert [run.stages[0].parts[0].method.name for run in runs] == ["mine", "other"]
    with pytest.raises(UserError, match=r"mine\.py: holds no method Mina \(did you mean 'Mine'"):
        method_from_file(*split_file(f"{file}:Mina"))
    assert split_file(str(file)) == (file, None)


@pytest.mark.parametrize("faulty", ["a/b", ""])
def test_a_name_that_could_not_be_told_apart_is_refused(tmp_path: Path, faulty: str) -> None:
    assert "without a /" in refused(tmp_path, HEAD.replace("'mine'", repr(faulty)))


def test_options_follow_from_the_parameter(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from cl_bench.methods.base import Method, Options\n"
        "class Own(Options):\n    rate: float = 0.5\n"
        "class Mine(Method[Own]):\n    name = 'mine'\n    keeps = ('outputs', 'examples')\n"
    )
    found = method_from_file(file)
    assert vars(found().options) == {"rate": 0.5}
    assert kept_by([found, method_class("ewc")]) == ["statistics", "outputs", "examples"]
    with pytest.raises(UserError, match="rat: unknown key"):
        resolve_file(write(tmp_path, methods=[{"file": "mine.py", "rat": 1}]))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return 1 // 0", "ZeroDivisionError: "),
        ("open('not there')", "FileNotFoundError: "),
        ("stage.missing()", "AttributeError: 'NoneType' "),
        ("raise UserError('wrong')", "wrong"),
        ("itemgetter('x')({})", "KeyError: 'x'"),
        ("self.examples = []", "AttributeError: `examples` is a hook of methods: call"),
    ],
)
def test_an_error_says_where_in_the_file_it_is(tmp_path: Path, body: str, expected: str) -> None:
    file = tmp_path / "mine.py"
    head = "from operator import itemgetter\nfrom cl_bench.errors import UserError\n" + HEAD
    file.write_text(f"{head}    def finish(self, stage):\n        {body}\n")
    own = method_from_file(file)()
    kind = UserError if "UserError" in body else RunError
    with pytest.raises(kind) as caught, user_errors(), user_errors():
        own.finish(None)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{file}, line 9, in finish: {expected}")
    with pytest.raises(ZeroDivisionError), user_errors():
        print(1 // 0)


def test_such_an_error_ends_a_command_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever it is met: `plan` asks for costs, outside of any stage."""
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}    def adds(self, shapes):\n        return shapes.missing\n")
    own = method_from_file(file)()
    assert failures_reported(lambda: int(bool(own.adds(3)))) == 1  # type: ignore[arg-type]
    said = capsys.readouterr().err
    where = f"{file}, line 7, in adds: AttributeError: 'int' object has no attribute 'missing'"
    assert said == f"cl-bench: failed: {where}\n"


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
            "holds 2 methods (Mine, Other): say which one, `file: mine.py:Mine`",
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
    first = resolve_file(path).runs[-1].stages[0].parts[0].method
    assert resolve_file(path).runs[-1].stages[1].parts[0].method is first
    assert log.read_text() == "run "
    file.write_text(file.read_text() + "\n# changed\n")
    os.utime(file, ns=(1, 1))
    assert method_from_file(file) is not first and log.read_text() == "run run "

"""Which tasks exist, without importing lm-eval."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cl_bench.data.tasks import (
    canonical_name,
    general_name,
    known_task_names,
    packaged_files,
    task_folders,
    unknown_task,
)
from cl_bench.errors import UserError
from tests.helpers.trace_names import TRACE


def test_our_tasks_are_known():
    known = known_task_names()
    assert {*TRACE.values(), "general_piqa", "general_boolq"} <= set(known)
    assert known == sorted(set(known))


@pytest.mark.parametrize(("theirs", "ours"), TRACE.items())
def test_trace_names_are_aliases_in_any_case(theirs, ours):
    assert canonical_name(theirs) == canonical_name(theirs.lower()) == ours
    assert canonical_name(ours) == canonical_name(ours.upper()) == ours


def test_other_names_stay():
    assert canonical_name("piqa") == "piqa"
    assert general_name("piqa") == general_name("PIQA") == "general_piqa"
    assert general_name("general_boolq") == "general_boolq"
    assert general_name("hellaswag") == "hellaswag"
    assert general_name("FOMC") == "trace_fomc"
    assert general_name("PIQA", protocol="opencompass-2023") == "opencompass_piqa"
    with pytest.raises(UserError, match=r"hellaswag: the protocol .* \(it has bbh, boolq, gsm8k"):
        general_name("hellaswag", protocol="opencompass-2023")


def test_folders_of_the_user_are_searched(tmp_path):
    (tmp_path / "deep" / "__pycache__").mkdir(parents=True)
    (tmp_path / "deep" / "a.yaml").write_text("include: b\ntask: 'my_task'  # mine\n")
    (tmp_path / "g.yaml").write_text("group: my_group\ntask:\n  - my_task\n")
    (tmp_path / "t.yaml").write_text("group: other\ntask: [my_task]\nnot_a_task: nope\n")
    (tmp_path / "deep" / "__pycache__" / "c.yaml").write_text("task: cached\n")
    (tmp_path / "notes.txt").write_text("task: text\n")
    known = known_task_names([tmp_path])
    assert {"my_task", "my_group", "other"} == set(known) - set(known_task_names())
    assert unknown_task("my_task", [tmp_path]) is None
    assert task_folders([tmp_path])[-1] == tmp_path


def test_packaged_tasks_are_found_by_name():
    found = packaged_files(["hellaswag", "boolq", "no_such_task"])
    assert set(found) == {"hellaswag", "boolq"}
    assert found["boolq"].parent.parent.name == "super_glue"
    assert packaged_files([]) == {}


def test_unknown_names_come_with_the_nearest():
    assert unknown_task("C-STANCE") is None
    assert unknown_task("hellaswag") is None
    assert unknown_task("trace_fomk") == "unknown task 'trace_fomk' (did you mean 'trace_fomc'?)"
    assert unknown_task("FOMCC") == "unknown task 'FOMCC' (did you mean 'FOMC'?)"
    assert unknown_task("helaswag") == "unknown task 'helaswag' (did you mean 'hellaswag'?)"
    assert (
        unknown_task("zzzzqq") == f"unknown task 'zzzzqq' (known: {', '.join(known_task_names())})"
    )


def test_names_are_checked_without_importing_lm_eval_or_torch():
    code = (
        "import sys; from cl_bench.data.tasks import *;"
        "unknown_task('trace_fomc'); general_name('piqa'); canonical_name('FOMC');"
        "print({'torch', 'lm_eval', 'datasets', 'transformers'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr

"""Scores of answers that are programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cl_bench.errors import UserError
from cl_bench.evaluation.code.sandbox import missing_protections, run_program

PROTECTIONS = {
    "network": "isolation from the network",
    "processes": "a process namespace",
    "memory": "a limit of memory",
}
"""What the user is told of each protection in `sandbox.WANTED`."""


def pass_at_1(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float | str]:
    """HumanEval: prompt, answer and the problem's checks make a program, which ends or does not.

    `score` 1 if it does, `timeout` 1 if it was stopped, `reason` a `Verdict`'s, for the records.
    The scorer of lm-eval's packaged task (`code_eval` on the Hub) runs the same program.
    """
    program = f"{doc['prompt']}{results[0]}\n{doc['test']}\ncheck({doc['entry_point']})\n"
    verdict = run_program(program)
    timeout = float(verdict.reason == "timeout")
    return {"score": float(verdict.passed), "timeout": timeout, "reason": verdict.reason}


def code_faults(tasks: Mapping[str, Any], allowed: bool) -> list[str]:
    """That running the programs of these tasks was not allowed, for those that run any."""
    names = [name for name, task in tasks.items() if getattr(task, "UNSAFE_CODE", False)]
    if allowed or not names:
        return []
    return [
        f"{', '.join(names)}: runs programs that the model writes; read "
        "docs/code-execution.md and give --allow-code-execution, or leave it out of "
        "eval.general.tasks"
    ]


def sandbox_warnings(tasks: Mapping[str, Any]) -> list[str]:
    """What the sandbox lacks on this machine, if any of the tasks needs one.

    Raises UserError where there can be none.
    """
    if not any(getattr(task, "UNSAFE_CODE", False) for task in tasks.values()):
        return []
    try:
        missing = missing_protections()
    except OSError as error:
        raise UserError(f"--allow-code-execution: {error}") from error
    return [f"programs of the model run without {PROTECTIONS[name]}" for name in missing]

"""The two ways a command can fail, and how names are suggested.

`UserError` is the user's input (exit code 2), `RunError` a run that failed (exit code 1).
Both are printed without a traceback; `--debug` shows it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class UserError(Exception):
    """The input is wrong. Lists every fault found, one line each: file, key, what to do."""

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class Absent(str):
    """A fault of this machine, not of the config: data or a model that is not here (yet).

    `run` refuses it like any other; `plan` prints what it can without, and says what is absent.
    """


class RunError(Exception):
    """The run failed: what, where, and how to go on."""


class DivergedError(RunError):
    """Training met a number that is not finite: where, and the update's numbers.

    The run fails; the others of the experiment go on.
    """

    def __init__(self, where: str, what: str, **numbers: float) -> None:
        self.what, self.numbers = what, numbers
        super().__init__(f"{where}: {what}")


class RunsFailedError(RunError):
    """Some runs of an experiment failed; what the others did is complete and can be reported."""

    def __init__(self, folder: Path, failures: Sequence[str], runs: int) -> None:
        self.folder, self.failures = folder, list(failures)
        others = "the others are complete" if runs > len(failures) else "there is no other"
        lines = [f"{len(failures)} of {runs} runs failed; {others}:", *failures]
        super().__init__("\n  ".join(lines))


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the closest known name, or the list of what exists if none is."""
    options = sorted(set(known))
    close = difflib.get_close_matches(name.lower(), [option.lower() for option in options], n=1)
    if close:
        match = next(option for option in options if option.lower() == close[0])
        return f" (did you mean '{match}'?)"
    return f" (known: {', '.join(options)})" if options else ""


def said_once(faults: Iterable[str]) -> list[str]:
    """The faults with every list of known names (`nearest`) in full once only."""
    seen: set[str] = set()
    lines: list[str] = []
    for fault in faults:
        start, known, names = fault.rpartition(" (known: ")
        again = known and names.count(",") > 2 and names in seen
        seen.add(names)
        lines.append(f"{start} (known: as above)" if again else fault)
    return lines


def missing_dependency(feature: str, package: str) -> UserError:
    """The one message for an optional package that is not installed."""
    return UserError(f"{feature} needs the package '{package}': pip install '{package}'")

"""The `cl-bench` command: which commands exist, and what their failures look like."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable

import typer

from cl_bench.commands import data
from cl_bench.commands.diff import diff
from cl_bench.commands.eval import evaluate
from cl_bench.commands.export import export
from cl_bench.commands.gate import gate
from cl_bench.commands.init import init
from cl_bench.commands.inspect import inspect
from cl_bench.commands.overview import doctor, methods, plan, tasks
from cl_bench.commands.plot import plot
from cl_bench.commands.report import report
from cl_bench.commands.run import run
from cl_bench.commands.score import score
from cl_bench.commands.status import status
from cl_bench.commands.verify import verify
from cl_bench.commands.work import work
from cl_bench.device_memory import first_line, out_of_memory
from cl_bench.errors import RunError, UserError, said_once
from cl_bench.experiment.processes import SilentExitError
from cl_bench.methods.user_files import user_errors
from cl_bench.store.file_errors import what_failed
from cl_bench.terminal import finish_output, print_anything, say

app = typer.Typer(
    name="cl-bench",
    help="Train a language model on a sequence of tasks; measure what it learns and forgets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("init")(init)
app.command("run")(run)
app.command("eval")(evaluate)
app.command("report")(report)
app.command("diff")(diff)
app.command("gate")(gate)
app.command("status")(status)
app.command("verify")(verify)
app.command("export")(export)
app.command("inspect")(inspect)
app.command("plot")(plot)
app.command("plan")(plan)
app.command("score")(score)
app.command("tasks")(tasks)
app.command("methods")(methods)
app.command("work", hidden=True)(work)
app.add_typer(data.app, name="data")
app.command("doctor")(doctor)


def _version(value: bool) -> None:
    if value:
        from cl_bench import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show tracebacks."),
    version: bool = typer.Option(
        False, "--version", help="Print the version.", callback=_version, is_eager=True
    ),
) -> None:
    """Options before the command; `--debug` is read in `main` so that it works anywhere."""


def main() -> None:
    """Run the command. Exit codes: 0 done, 1 the run failed, 2 wrong input, 130 interrupted.

    `gate` has two more meanings: 1 also where something dropped, 3 where it cannot tell.
    """
    os.environ.setdefault("TQDM_DISABLE", "1")  # one progress display: ours
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    print_anything()
    if "--debug" not in sys.argv:
        warnings.simplefilter("ignore", FutureWarning)  # of libraries, about each other
    arguments = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    sys.exit(finish_output(run_command(arguments, debug)))


def run_command(arguments: list[str], debug: bool = False) -> int:
    """The exit code of `cl-bench ARGUMENTS...`; failures go to stderr."""

    def command() -> int:
        result = app(args=arguments, standalone_mode=False)
        # Typer answers Ctrl-C with 130 itself, `typer.Exit` with its code, else nothing.
        return _interrupted() if result == 130 else int(result or 0)

    return failures_reported(command, debug)


def failures_reported(command: Callable[[], int], debug: bool = False) -> int:
    """The exit code of `command()`, or the one of its failure, which is printed."""
    try:
        with user_errors():
            return command()
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted()
    except SilentExitError as error:
        return error.code
    except UserError as error:
        _complain("error", said_once(error.faults), debug)
        return 2
    except RunError as error:
        _complain("failed", [str(error)], debug)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        given = error.errno == errno.ENAMETOOLONG  # no name of ours is
        _complain("error" if given else "failed", [what_failed(error)], debug)
        return 2 if given else 1
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # its making has printed the help
            return 0
        if hasattr(error, "format_message"):  # Click's own usage errors
            _complain("error", [error.format_message()], debug)
            return 2
        if out_of_memory(error):
            what = f"out of memory ({first_line(error)}); what is complete is kept: {_MEMORY}"
            _complain("failed", [what], debug)
            return 1
        _complain("failed", [f"{type(error).__name__}: {error}"], debug)
        if not debug:
            say("run again with --debug for the traceback")
        return 1


_MEMORY = "free some (`cl-bench plan` says how much a run takes) and run the same command again"


def _interrupted() -> int:
    say("\ninterrupted; what is complete is kept: run again to go on")
    return 130


def _complain(kind: str, lines: list[str], debug: bool) -> None:
    if debug:
        say(traceback.format_exc())
    for line in lines:
        say(f"cl-bench: {kind}: {line}")


if __name__ == "__main__":
    main()

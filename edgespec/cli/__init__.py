"""The command line: one verb a file; the only place that turns errors into exit codes."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

from edgespec.cli import chat, run, version
from edgespec.errors import EdgespecError

INTERRUPTED, BROKEN_PIPE = 130, 141

_Parameters = ParamSpec("_Parameters")


def _exits(verb: Callable[_Parameters, int]) -> Callable[_Parameters, None]:
    """A verb whose errors are one line on stderr and the exit code of DESIGN section 6."""

    @functools.wraps(verb)
    def wrapped(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> None:
        try:
            code = verb(*args, **kwargs)
            sys.stdout.flush()
        except EdgespecError as error:
            code = _say(str(error), error.exit_code)
        except KeyboardInterrupt:
            code = _say("stopped", INTERRUPTED)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = BROKEN_PIPE
        raise typer.Exit(code)

    return wrapped


def _say(message: str, code: int) -> int:
    print(f"edgespec: {message}", file=sys.stderr)
    return code


app = typer.Typer(
    name="edgespec",
    help="A quantized model on your own machine, answering faster in the memory that is there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("chat")(_exits(chat.chat))
app.command("run")(_exits(run.run))
app.command("version")(_exits(version.version))


def main() -> None:
    """The `edgespec` script."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    app()

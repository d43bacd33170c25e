"""The verbs as typer knows them; the only place that turns errors into sentences on stderr and exit codes."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import ParamSpec

import typer

from edgespec.cli import INTERRUPTED, bench, chat, probe, trim, version
from edgespec.cli import run as run_
from edgespec.errors import EdgespecError

FAILURE, USAGE, BROKEN_PIPE = 1, 2, 141

_Parameters = ParamSpec("_Parameters")


def run(arguments: Sequence[str]) -> int:
    """Run one verb and return the exit code; no error leaves this function but a mistake in edgespec itself."""
    if sys.stderr is None:  # each of the three is None where the caller closed it
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdin is None:
        sys.stdin = open(os.devnull)  # noqa: SIM115
    if sys.stdout is None:
        return _say("standard output is closed, so the answer could go nowhere; open it or name a file", FAILURE)
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code: int = app(list(arguments) or ["--help"], prog_name="edgespec", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return _say(_usage(error), USAGE)
    return code


def _usage(error: Exception) -> str:
    """A usage error of typer in one sentence; its classes moved between versions, their attributes did not."""
    near = getattr(error, "possibilities", None)
    if near:
        return f"{_lower(str(getattr(error, 'message', error)))}; did you mean {' or '.join(near)}?"
    text = _lower(error.format_message()).replace(". Did you mean", "; did you mean")  # type: ignore[attr-defined]
    where = getattr(getattr(error, "ctx", None), "command_path", "edgespec")
    return text if text.endswith("?") else f"{text.rstrip('.')}; `{where} --help` lists what there is"


def _lower(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].lower() + text[1:]


def _exits(verb: Callable[_Parameters, int]) -> Callable[_Parameters, int]:
    """A verb whose errors are one line on stderr and the exit code of docs/design.md section 6."""

    @functools.wraps(verb)
    def wrapped(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> int:
        try:
            code = verb(*args, **kwargs)
            sys.stdout.flush()
        except EdgespecError as error:
            return _say(str(error), error.exit_code)
        except KeyboardInterrupt:
            return _say("stopped", INTERRUPTED)
        except BrokenPipeError:
            _silence_stdout()
            return BROKEN_PIPE
        except OSError as error:
            _silence_stdout()
            return _say(f"reading or writing failed: {error}; check where input and output go", FAILURE)
        return code

    return wrapped


def _say(message: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"edgespec: {message}", file=sys.stderr, flush=True)
    return code


def _silence_stdout() -> None:
    """Let what is still buffered for a reader that is gone go nowhere, or Python complains about it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


app = typer.Typer(
    name="edgespec",
    help="A quantized model on your own machine, answering faster in the memory that is there.",
    pretty_exceptions_enable=False,
)
app.command("chat")(_exits(chat.chat))
app.command("run")(_exits(run_.run))
app.command("probe")(_exits(probe.probe))
app.command("bench")(_exits(bench.bench))
app.command("trim")(_exits(trim.trim))
app.command("version")(_exits(version.version))

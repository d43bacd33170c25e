"""The command line: one verb a file.

Nothing heavy is imported before `main` runs, so that Ctrl-C never meets a program that cannot answer it.
"""

from __future__ import annotations

import signal
import sys

INTERRUPTED = 130


def main() -> None:
    """The `edgespec` script; leaves with the exit code of docs/design.md section 6."""
    try:
        from edgespec.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a third Ctrl-C must not interrupt the leaving
    sys.exit(code)

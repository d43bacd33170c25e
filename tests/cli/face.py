"""The command line with a fake worker, on the terminal that is its standard input: `face.py STAGE ENDING VERB ...`."""

from __future__ import annotations

import fcntl
import functools
import signal
import sys
import termios
from pathlib import Path

from edgespec.cli import chat, main, run
from edgespec.service.supervisor import Supervisor

fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.default_int_handler)
fake = Path(__file__).parents[1] / "service" / "fake_worker.py"
command = (sys.executable, str(fake), *sys.argv[1:3])
chat.Supervisor = run.Supervisor = functools.partial(Supervisor, command)  # type: ignore[assignment,misc]
sys.argv[1:] = sys.argv[3:]
main()

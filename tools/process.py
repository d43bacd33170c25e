"""Running a long command: its output into a log, its progress on one line, and no process left behind."""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tools.build_log import Step, further, parse_phase, parse_step


def clock(seconds: float) -> str:
    """4 -> "0m04s"."""
    return f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


@dataclass
class Meter:
    """How far a command is, told from its output. Times are given by the caller, in seconds.

    title  what is being done, as a person would say it
    """

    title: str
    started: float
    phase: str = ""
    step: Step | None = None
    compiling_since: float = 0.0
    _told_tenths: int = 0
    _told_phase: str = field(default="")

    def read(self, line: str, now: float) -> None:
        """Take in one line of output."""
        self.phase = parse_phase(line) or self.phase
        step = further(self.step, parse_step(line))
        if step is not None and self.step is None:
            self.compiling_since = now
        self.step = step

    def line(self, now: float, width: int) -> str:
        """The state on one line of at most `width` characters."""
        gone = clock(now - self.started)
        if self.step is None or self.phase == "packing":
            text = f"  {self.title}: {self.phase}, {gone}" if self.phase else f"  {self.title}: {gone}"
        else:
            bar = "#" * (20 * self.step.done // self.step.total)
            text = f"  {self.title} [{bar:<20}] {self.step.done}/{self.step.total}, {gone}{self._left(now)}"
        return text[: max(0, width)]

    def news(self, now: float) -> str | None:
        """A line for a plain log, if there is something worth one: a new phase, or another tenth done."""
        if self.phase != self._told_phase:
            self._told_phase = self.phase
            return f"  {self.title}: {self.phase}, {clock(now - self.started)}"
        tenths = 10 * self.step.done // self.step.total if self.step else 0
        if tenths <= self._told_tenths or self.step is None:
            return None
        self._told_tenths = tenths
        share = f"{tenths * 10} % ({self.step.done}/{self.step.total})"
        return f"  {self.title}: {share}, {clock(now - self.started)}{self._left(now)}"

    def _left(self, now: float) -> str:
        if self.step is None or self.step.done * 20 < self.step.total or self.step.done == self.step.total:
            return ""  # too early to tell, or over
        remaining = (now - self.compiling_since) * (self.step.total - self.step.done) / self.step.done
        return f", about {clock(remaining)} left"


def run_logged(
    command: Sequence[str],
    title: str,
    log: TextIO,
    env: Mapping[str, str] | None = None,
    out: TextIO = sys.stderr,
) -> int:
    """Exit status of the command; its output goes to `log`, its progress to `out`.

    The command and everything it started are ended when this is left by an exception (Ctrl-C, a signal).
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=None if env is None else dict(env),
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        _follow(process, Meter(title, time.monotonic()), log, out)
        return process.wait()
    finally:
        if out.isatty():
            out.write("\r\x1b[K")
            out.flush()
        _end(process)


def _follow(process: subprocess.Popen[str], meter: Meter, log: TextIO, out: TextIO) -> None:
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    live, shown = out.isatty(), ""
    while True:
        line: str | None = ""  # nothing said for a second: only the clock moves on
        with contextlib.suppress(queue.Empty):
            line = lines.get(timeout=1.0)
        if line is None:
            break
        log.write(line)
        now = time.monotonic()
        meter.read(line, now)
        text = meter.line(now, shutil.get_terminal_size().columns - 1) if live else meter.news(now)
        if text and text != shown:
            out.write(f"\r\x1b[K{text}" if live else f"{text}\n")
            out.flush()
            shown = text
    log.flush()


def _read_lines(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        if os.name == "posix":
            _signal_group(process, signal.SIGKILL)  # compilers that outlived pip
        process.wait()


def _signal_group(process: subprocess.Popen[str], number: int) -> None:
    with contextlib.suppress(OSError):  # already gone
        if os.name == "posix":
            os.killpg(process.pid, number)
        else:
            process.terminate()


def tail_of(path: Path, n_bytes: int = 400_000) -> str:
    """The end of a text file; "" if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - n_bytes))
            return file.read().decode(errors="replace")
    except OSError:
        return ""

"""The command line in this process, in one of its own, and on a terminal."""

from __future__ import annotations

import functools
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgespec.cli import app
from edgespec.service.supervisor import Supervisor

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "service" / "fake_worker.py"
PATIENCE_S = 60
MISSED_S = 10


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `edgespec` with arguments and standard input, here."""

    def run(*arguments: str, stdin: bytes = b"") -> Outcome:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        try:
            code = app.run(arguments)
        finally:
            signal.signal(signal.SIGINT, before)
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return run


def _use(monkeypatch: pytest.MonkeyPatch, supervisor: Callable[[], object]) -> None:
    for verb in ("run", "chat", "probe"):
        monkeypatch.setattr(f"edgespec.cli.{verb}.Supervisor", supervisor)


@dataclass(frozen=True)
class _Lent:
    """A worker that outlives the verb."""

    worker: Supervisor

    def __enter__(self) -> Supervisor:
        return self.worker

    def __exit__(self, *_: object) -> None:
        self.worker.cancel()


@pytest.fixture
def demo(command: Command, loaded_once: Supervisor, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`command` with the real worker of this test session."""
    _use(monkeypatch, lambda: _Lent(loaded_once))
    return command


@pytest.fixture
def fake(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`command` with a scripted worker; fake(..., script=(STAGE, ENDING))."""

    def run(*arguments: str, stdin: bytes = b"", script: tuple[str, ...] = ()) -> Outcome:
        _use(monkeypatch, functools.partial(Supervisor, (sys.executable, str(FAKE), *script)))
        return command(*arguments, stdin=stdin)

    return run


class Terminal:
    """A face on a terminal of its own, talked to like a person does: type, and read until something is there."""

    def __init__(self, *arguments: str, script: tuple[str, str] = ("", "")) -> None:
        self._master, slave = pty.openpty()
        face = (sys.executable, str(Path(__file__).with_name("face.py")), *script, *arguments)
        environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        self._process = subprocess.Popen(
            face, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self._seen = ""

    def type(self, text: str | bytes) -> None:
        os.write(self._master, text.encode() if isinstance(text, str) else text)

    def send(self, line: str) -> None:
        self.type(line + "\r")

    def ctrl_c(self) -> None:
        self.type(b"\x03")

    def ctrl_c_at_the_prompt(self) -> None:
        """Python looks for signals and then waits for keys: one that comes in between is noticed with the next key."""
        self.ctrl_c()
        if not select.select([self._master], [], [], MISSED_S)[0]:
            self.ctrl_c()

    def expect(self, pattern: str) -> str:
        """What came up to and with the pattern; later calls see only what comes after."""
        while (found := re.search(pattern, self._seen, re.DOTALL)) is None:
            assert self._read(), f"{pattern!r} did not come, but {self._seen!r}"
        text, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return text

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
        assert ready, f"nothing came after {self._seen!r}"
        try:
            data = os.read(self._master, 4096)
        except OSError:  # Linux: the other side is closed
            return False
        # readline switches bracketed paste on and off around each line
        self._seen += re.sub("\x1b\\[\\?2004[hl]\r?", "", data.decode("utf-8", "replace"))
        return bool(data)

    def leave(self) -> tuple[int, str]:
        """The exit code and what came last."""
        while self._read():
            pass
        return self._process.wait(PATIENCE_S), self._seen

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*arguments: str, script: tuple[str, str] = ("", "")) -> Terminal:
        opened.append(Terminal(*arguments, script=script))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def sentence(outcome: Outcome, code: int) -> str:
    """What was said, after checking that it is one line on stderr, nothing on stdout, and the exit code."""
    assert (outcome.code, outcome.out) == (code, ""), outcome
    assert outcome.err.startswith("edgespec: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    return outcome.err

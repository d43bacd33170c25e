"""The model's process as its parent sees it: started, spoken to, ended, and how it ended in one sentence.

Not covered: what to do about a death (supervisor).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgespec.errors import WorkerDied
from edgespec.service.messages import Event, Order, Pipe

LOADING, ANSWERING, IDLE = "loading the model", "answering", "idle"
GRACE_S = 5
_LAST_WORDS = 100
_FAILED_SIGNALS = ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGTRAP")


@dataclass(frozen=True, eq=False)
class Ended:
    """The last thing that comes from a child."""

    child: Child


@dataclass(frozen=True)
class Obituary:
    """how: what became of "the model's process"; words: its own, behind a colon, or none; todo: what may help."""

    how: str
    words: str
    todo: str


class Child:
    """A process that speaks messages, in a session of its own: Ctrl-C reaches only its parent. It ends when its pipe
    does, however the parent ends."""

    def __init__(self, command: Sequence[str], report: Callable[[Event | Ended], None]) -> None:
        """report gets every event from another thread, Ended last. Raises WorkerDied where it cannot be started."""
        self._process = _start(command)
        self._pipe = Pipe(self._process.stdout, self._process.stdin)  # type: ignore[arg-type]
        self._report = report
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._threads = [threading.Thread(target=t, daemon=True) for t in (self._listen, self._note_last_words)]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, order: Order) -> bool:
        """Whether it could be sent: False where the pipe broke or was closed."""
        try:
            self._pipe.send(order)
        except (OSError, ValueError):
            return False
        return True

    def obituary(self, doing: str) -> Obituary:
        """How it ended; one that lives on after its pipe ended is killed."""
        self.close()
        return _obituary(self._process.returncode, doing, list(self._last_words))

    def close(self) -> None:
        """End it: gently, then for good. Idempotent."""
        with contextlib.suppress(OSError):  # what was never flushed has no reader any more
            self._process.stdin.close()  # type: ignore[union-attr]
        self._reap()

    def kill(self) -> None:
        """End it now, and whatever it started."""
        _kill(self._process)
        self.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            with self._process.stdout:
                while (event := self._pipe.receive()) is not None:
                    self._report(event)  # type: ignore[arg-type]
        except Exception as error:  # a frame that a dying process left unfinished may fail in any way
            self._last_words.append(f"a message of the process could not be read: error {error!r}")
        self._report(Ended(self))

    def _note_last_words(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(OSError, ValueError), self._process.stderr:
            for line in self._process.stderr:
                if line.strip():
                    self._last_words.append(line.decode("utf-8", "replace").strip())

    def _reap(self) -> None:
        """Wait for it to end, but not for ever, and for what it said last."""
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _kill(self._process)
        for thread in self._threads:
            thread.join(GRACE_S)  # one whose stream a grandchild holds open ends, and closes it, with that


def _start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """The child; files in the user's current folder are not what it imports, whatever their names."""
    environment = dict(os.environ)
    if not os.path.samefile(os.curdir, Path(__file__).resolve().parents[2]):
        environment["PYTHONSAFEPATH"] = "1"
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError as error:
        why = f"the model's process could not be started ({error}); free some memory and try again"
        raise WorkerDied(why) from None


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError, PermissionError):  # Windows has no groups
            process.kill()
    process.wait()


def _obituary(code: int, doing: str, last_words: Sequence[str]) -> Obituary:
    """How the process ended, in its own words where it chose to end, and what to do."""
    how, todo = f"ended (exit code {code})", "start edgespec again"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        how, todo = f"was killed by {name}", _next_step(name, doing)
        last_words = last_words if name == "SIGABRT" else ()
    telling = [line for line in last_words if "ASSERT" in line or "error" in line.lower()]
    said = next(iter((telling or list(last_words))[-1:]), "")
    said = re.sub(r"\S*/(?=\S+:\d+: )", "", said)  # the folder of the machine that built the runtime
    return Obituary(f"{how} while {doing}", f": {said}" if said else "", todo)


def _next_step(signal_name: str, doing: str) -> str:
    if signal_name == "SIGKILL":
        return "it may have run out of memory: use a smaller --context or a smaller model"
    if signal_name == "SIGILL":
        return "the runtime was built for another processor: build it again with `make setup`"
    if signal_name in _FAILED_SIGNALS:
        return "the file may be damaged: download it again, or use another" if doing == LOADING else "try again"
    return "start edgespec again"

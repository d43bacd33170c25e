"""What the face and the model's process say to each other: frozen messages, each with the id of its request, pickled in
frames over one duplex pipe (the child's standard input and output)."""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from typing import BinaryIO

from edgespec.errors import EdgespecError
from edgespec.memory.report import MemoryReport, ProbeReport
from edgespec.settings import Settings
from edgespec.types import Answer, Message, Notice, Piece, PlanLine, Sampling

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Load:
    """rung: how many steps down the ladder of its plan to begin (after a death)."""

    request: int
    settings: Settings
    rung: int = 0


@dataclass(frozen=True)
class Probe:
    """What the settings' model, or every known one, would take; load: and takes, tried out."""

    request: int
    settings: Settings
    load: bool


@dataclass(frozen=True)
class Generate:
    """said: ids of this very answer that were emitted before the process died; the answer goes on behind them.

    n_shown: characters of its text that arrived with them: nearly always their text, less what is not certain yet.
    start: where the conversation began when they were emitted (Began); means nothing without said.
    """

    request: int
    messages: tuple[Message, ...]
    sampling: Sampling
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    said: tuple[int, ...] = ()
    n_shown: int = 0
    start: int = 0


@dataclass(frozen=True)
class Cancel:
    """Stop what that request started; its answer so far still comes."""

    request: int


@dataclass(frozen=True)
class Loaded:
    """n_rungs: how many rungs of its ladder promise the plan's context, a restart may begin at any of them; memory: as
    predicted."""

    request: int
    model: str
    note: str
    n_ctx: int
    method: str
    plan: tuple[PlanLine, ...]
    warnings: tuple[str, ...]
    n_rungs: int = 1
    memory: MemoryReport | None = None


@dataclass(frozen=True)
class Probed:
    request: int
    report: ProbeReport


@dataclass(frozen=True)
class Progress:
    """what is being done, and how much of it (0 to 1)."""

    request: int
    what: str
    done: float


@dataclass(frozen=True)
class Began:
    """The prompt begins with this message: those before it were left out, but for system messages."""

    request: int
    start: int


@dataclass(frozen=True)
class Said:
    request: int
    piece: Piece


@dataclass(frozen=True)
class Noted:
    """Something changed under way."""

    request: int
    notice: Notice


@dataclass(frozen=True)
class Done:
    """rss_bytes: memory of the model's process at the end of the answer; notices: every one of this answer.

    growth: bytes taken since before the weights were loaded, by device.
    """

    request: int
    answer: Answer
    rss_bytes: int
    notices: tuple[Notice, ...] = ()
    growth: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Failed:
    request: int
    error: EdgespecError


Order = Load | Probe | Generate | Cancel
Event = Loaded | Probed | Progress | Began | Said | Noted | Done | Failed


class Pipe:
    """Sends and receives messages over two buffered binary streams; sending is safe from several threads, since each
    message is one write."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader, self._writer = reader, writer

    def send(self, message: Order | Event) -> None:
        """Raises OSError where the other side is gone."""
        body = pickle.dumps(message)
        self._writer.write(_LENGTH.pack(len(body)) + body)
        self._writer.flush()

    def receive(self) -> Order | Event | None:
        """The next message, None at the end of the stream, even one in the middle of a message."""
        head = self._reader.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        (size,) = _LENGTH.unpack(head)
        body = self._reader.read(size)
        if len(body) < size:
            return None
        message: Order | Event = pickle.loads(body)
        return message

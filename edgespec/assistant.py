"""A loaded model to ask: what library users and the worker hold. Not covered: loading it (assemble)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from edgespec.chat.answer import Chat
from edgespec.engine.loop import Engine
from edgespec.errors import BadSetting
from edgespec.memory.measure import Weighing
from edgespec.memory.report import MemoryReport
from edgespec.store.registry import Entry
from edgespec.types import Answer, Message, Notice, Piece, PlanLine, Sampling

Turn = Message | Mapping[str, str]


@dataclass(frozen=True)
class Assistant:
    """A loaded model ready to answer, one answer at a time; close() frees it.

    warnings  what the user should know before believing or timing it
    owned     what close() frees: models and contexts
    memory    what it takes, as predicted; n_rungs: of its plan's ladder, those with the plan's context
    weighing  from before the weights were loaded
    keep      saves what answers taught, in a file; a warning where that failed
    tidy      what may be done while nobody waits, until its argument says that somebody does; a line about it
    """

    entry: Entry
    chat: Chat
    engine: Engine
    plan: tuple[PlanLine, ...]
    warnings: tuple[str, ...]
    owned: ExitStack
    memory: MemoryReport
    n_rungs: int
    weighing: Weighing
    keep: Callable[[], str | None]
    tidy: Callable[[Callable[[], bool]], str | None] = lambda _: None

    def stream(
        self, messages: Sequence[Turn], sampling: Sampling | None = None, max_tokens: int | None = None
    ) -> Iterator[str]:
        """Text of the answer as it comes; closing the iterator stops the answer. Raises what Chat.stream raises."""
        for event in self._events(messages, sampling, max_tokens):
            if isinstance(event, Piece):
                yield event.text

    def answer(
        self, messages: Sequence[Turn], sampling: Sampling | None = None, max_tokens: int | None = None
    ) -> Answer:
        """The whole answer with its timings. Raises what Chat.stream raises."""
        *_, last = self._events(messages, sampling, max_tokens)
        assert isinstance(last, Answer)
        return last

    def _events(
        self, messages: Sequence[Turn], sampling: Sampling | None, max_tokens: int | None
    ) -> Iterator[Piece | Notice | Answer]:
        turns = [_message(turn) for turn in messages]
        return self.chat.stream(turns, sampling=sampling or Sampling(), max_tokens=max_tokens)

    def close(self) -> None:
        self.owned.close()

    def __enter__(self) -> Assistant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _message(turn: Turn) -> Message:
    if isinstance(turn, Message):
        return turn
    if set(turn) != {"role", "content"}:
        raise BadSetting(f"a message has role and content, not {', '.join(turn) or 'nothing'}; give both and no more")
    return Message(turn["role"], turn["content"])

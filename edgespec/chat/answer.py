"""One answer: messages in, text as it becomes certain, and what it cost.

Not covered: several answers at a time, reasoning and tool calls.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edgespec.backends.base import Model, Progress
from edgespec.chat.prompt import encode
from edgespec.chat.templates import ChatTemplate
from edgespec.chat.text import TextStream
from edgespec.chat.turns import Fitted, fitted, resumed
from edgespec.errors import Cancelled, ContextOverflow
from edgespec.types import Answer, FinishReason, Message, Notice, Piece, Prefill, Sampling, Step


class EngineLike(Protocol):
    """What a Chat needs of engine.loop.Engine."""

    @property
    def method(self) -> str: ...

    @property
    def n_ctx(self) -> int:
        """The longest conversation, answer included."""
        ...

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int | None,
        *,
        end_ids: frozenset[int],
        cancelled: Callable[[], bool] | None = None,
        progress: Progress | None = None,
    ) -> Iterator[Prefill | Step | Notice]:
        """A Prefill, then Steps, the last with a finish, and Notices; raises ContextOverflow, DoesNotFit, and Cancelled
        during prefill."""
        ...


class Chat:
    """A model and its engine as something to talk to; one answer at a time."""

    def __init__(
        self, model: Model, engine: EngineLike, heard: Callable[[Sequence[int]], None] = lambda _: None
    ) -> None:
        """heard: told every round's tokens. Raises ModelUnusable where the model's chat template is broken."""
        self._model, self._engine, self._heard = model, engine, heard
        self._pieces = model.pieces()
        self._template = ChatTemplate(model.chat_template, model.bos_text, model.eos_text)

    @property
    def warning(self) -> str | None:
        """A line for the user where the model has no chat template."""
        return self._template.warning

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the prompt for these messages; raises what prompt.encode raises."""
        return encode(self._model, self._template, messages, self._pieces)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        sampling: Sampling,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        cancelled: Callable[[], bool] | None = None,
        progress: Progress | None = None,
        said: Sequence[int] = (),
        n_shown: int = 0,
        start: int = 0,
        began: Callable[[int], None] = lambda _: None,
    ) -> Iterator[Piece | Notice | Answer]:
        """Pieces, then one Answer whose text and tokens are theirs joined; Notices as they come.

        The oldest turns are left out where the conversation outgrew the context (turns.py); began(number of the message
        that the prompt begins with) comes before everything else.

        said: ids of this very answer that were emitted elsewhere, whose text was shown up to n_shown characters, behind
        a prompt that began with message `start`. Pieces hold what comes behind those, the Answer all of it, with
        figures of what was done here; max_tokens counts them.
        A stop string ends the answer, finish "stop"; neither it nor text after it is printed, though the ids
        are kept. Cancelled, even while the prompt is read, is an Answer too. Closing the iterator stops the
        engine. Raises what prompt.encode and the engine raise.
        """
        text = TextStream(self._pieces, (*stop, *self._template.stop))
        fit = self._fit(messages, max_tokens, len(said), start)
        began(fit.start)
        yield from fit.notices
        tally = _Tally(said=tuple(said), n_shown=n_shown)
        yield from tally.piece(text.feed(self._printing(said)))
        if ended := self._ended(said, max_tokens):
            tally.finish = ended
        elif not text.stopped:
            n_left = None if max_tokens is None else max_tokens - len(said)
            ids, end_ids = [*fit.prompt, *said], self._model.end_ids
            yield from self._follow(
                self._engine.generate(ids, sampling, n_left, end_ids=end_ids, cancelled=cancelled, progress=progress),
                text,
                tally,
            )
        yield from tally.piece(text.flush(), last=True)
        yield tally.answer(tally.method or self._engine.method, "stop" if text.stopped else tally.finish)

    def _follow(
        self, steps: Iterator[Prefill | Step | Notice], text: TextStream, tally: _Tally
    ) -> Iterator[Piece | Notice]:
        """Pieces of what the engine does, added to text and tally; closes the engine's iterator."""
        try:
            for event in steps:
                if isinstance(event, Prefill):
                    tally.prefill = event
                    continue
                if isinstance(event, Notice):
                    yield replace(event, n_tokens=event.n_tokens + len(tally.said))
                    continue
                tally.add(event)
                self._heard(event.tokens)
                yield from tally.piece(text.feed(self._printing(event.tokens)))
                if text.stopped:
                    break
        except Cancelled:
            tally.finish = "cancelled"
        except ContextOverflow as error:
            if not tally.said or error.n_needed > error.n_ctx + 1:
                raise
            tally.finish = "length"  # the context was full when it was said
        finally:
            _close(steps)

    def _fit(self, messages: Sequence[Message], max_tokens: int | None, n_said: int, start: int) -> Fitted:
        how = (messages, self.prompt_ids, self._count, self._engine.n_ctx, max_tokens)
        return resumed(*how, n_said, start) if n_said else fitted(*how)

    def _count(self, message: Message) -> int:
        """Tokens of a message's content."""
        content = message.content.encode("utf-8", "replace")
        return len(message.ids) if message.ids else len(self._model.tokenize(content, special=False))

    def _printing(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token not in self._model.end_ids]

    def _ended(self, said: Sequence[int], max_tokens: int | None) -> FinishReason | None:
        """How an answer that is resumed had ended before it was; None: it had not."""
        if said and said[-1] in self._model.end_ids:
            return "stop"
        return "length" if said and max_tokens is not None and len(said) >= max_tokens else None


_NOTHING_READ = Prefill(0, 0, 0.0)


@dataclass
class _Tally:
    """Sums over one answer; `finish` stays "cancelled" for a stream that ended without saying why.

    said     ids that were emitted elsewhere; n_shown: characters at the beginning of the text that no piece repeats
    """

    said: tuple[int, ...] = ()
    n_shown: int = 0
    prefill: Prefill = _NOTHING_READ
    steps: list[Step] = field(default_factory=list)
    finish: FinishReason = "cancelled"
    texts: list[str] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.waiting += step.tokens
        self.finish = step.finish or self.finish

    def piece(self, text: str, last: bool = False) -> Iterator[Piece]:
        """A piece where there is text, or where ids would otherwise be lost."""
        self.texts.append(text)
        n_old = min(self.n_shown, len(text))
        self.n_shown -= n_old
        text = text[n_old:]
        if text or (last and self.waiting):
            ids, self.waiting = tuple(self.waiting), []
            yield Piece(text, ids)

    @property
    def method(self) -> str:
        """What drafted most of what was verified, "" where nothing was said or rounds say nothing of it."""
        drafted: Counter[str] = Counter()
        for step in self.steps:
            drafted[step.choice.drafter] += step.n_drafted
        (most, n), *_ = drafted.most_common(1) or [("", 0)]
        return most if n else ""

    def answer(self, method: str, finish: FinishReason) -> Answer:
        rounds = [step for step in self.steps if step.tokens]
        return Answer(
            text="".join(self.texts),
            tokens=(*self.said, *(token for step in rounds for token in step.tokens)),
            finish=finish,
            method=method,
            prompt_n=self.prefill.n_prompt - self.prefill.n_cached,
            cache_n=self.prefill.n_cached,
            prompt_ms=self.prefill.ms,
            predicted_ms=sum(step.target_ms + step.draft_ms + step.overhead_ms for step in self.steps),
            draft_n=sum(step.n_drafted for step in rounds),
            draft_n_accepted=sum(step.n_accepted for step in rounds),
            n_rounds=len(rounds),
            target_ms=sum(step.target_ms for step in self.steps),
            draft_ms=sum(step.draft_ms for step in self.steps),
            overhead_ms=sum(step.overhead_ms for step in self.steps),
            n_said=len(self.said),
        )


def _close(steps: Iterator[Prefill | Step | Notice]) -> None:
    """Stop the engine where its iterator is a generator; others have nothing to stop."""
    close = getattr(steps, "close", None)
    if close is not None:
        close()

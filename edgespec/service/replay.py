"""What an answer said so far, so that it can go on in another process. Not covered: starting that process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgespec.errors import AnswerCut, EdgespecError, WorkerDied
from edgespec.service.messages import Began, Done, Generate, Noted, Said
from edgespec.types import Answer, FinishReason, Notice


@dataclass
class Record:
    """One answer as it arrived, from however many processes.

    Text and ids of a piece travel in one message: what is here was shown, and what a process had not sent yet is
    computed again by the next one.
    """

    order: Generate
    texts: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    start: int = 0

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def heard(self, event: Began | Said | Noted | Done) -> Said | Noted | Done | None:
        """What to pass on of it; the end with what earlier processes noted as well."""
        if isinstance(event, Began):
            self.start = event.start
            return None
        if isinstance(event, Said):
            self.texts.append(event.piece.text)
            self.tokens += event.piece.ids
        elif isinstance(event, Done):
            return replace(event, notices=tuple(self.notices))
        elif event.notice.kind != "restart" and event.notice in self.notices:
            return None  # a replay makes the same room for the same prompt once more
        else:
            self.notices.append(event.notice)
        return event

    def rest(self) -> Generate:
        """The order for what is still to be said, behind the same beginning of the conversation."""
        return replace(self.order, said=tuple(self.tokens), n_shown=len(self.text), start=self.start)

    def stopped(self, method: str) -> Done:
        """The end of an answer that was cancelled while no process was at it: no figures, since they died with it."""
        answer = cut_short(self.text, tuple(self.tokens), "cancelled", method)
        return Done(self.order.request, answer, rss_bytes=0, notices=tuple(self.notices))

    def failed(self, error: EdgespecError) -> EdgespecError:
        """The error with what was said before it; itself where nothing was."""
        text, tokens = self.text, tuple(self.tokens)
        if isinstance(error, WorkerDied):
            return WorkerDied(str(error), text, tokens)
        return AnswerCut(str(error), text, tokens, error.exit_code) if tokens else error


def cut_short(text: str, tokens: tuple[int, ...], finish: FinishReason, method: str) -> Answer:
    """An answer that nobody finished; its figures are lost."""
    return Answer(
        text=text,
        tokens=tokens,
        finish=finish,
        method=method,
        prompt_n=0,
        cache_n=0,
        prompt_ms=0.0,
        predicted_ms=0.0,
        draft_n=0,
        draft_n_accepted=0,
        n_rounds=0,
        target_ms=0.0,
        draft_ms=0.0,
        overhead_ms=0.0,
        n_said=len(tokens),
    )

"""What an answer said so far, so that it can go on in another process. Not covered: starting that process."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from edgespec.service.messages import Done, Generate, Noted, Said
from edgespec.types import Answer, FinishReason, Notice

_CANCELLED: FinishReason = "cancelled"


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

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def said(self, event: Said) -> None:
        self.texts.append(event.piece.text)
        self.tokens += event.piece.ids

    def noted(self, event: Noted) -> bool:
        """Whether it is news: a replay makes the same room for the same prompt once more."""
        known = event.notice.kind != "restart" and event.notice in self.notices
        if not known:
            self.notices.append(event.notice)
        return not known

    def rest(self) -> Generate:
        """The order for what is still to be said."""
        return replace(self.order, said=tuple(self.tokens), n_shown=len(self.text))

    def done(self, event: Done) -> Done:
        """The end of the answer, with what earlier processes noted as well."""
        return replace(event, notices=tuple(self.notices))

    def cut_short(self, method: str) -> Done:
        """The end of an answer that was cancelled while no process was at it: no figures, since they died with it."""
        answer = Answer(
            text=self.text,
            tokens=tuple(self.tokens),
            finish=_CANCELLED,
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
            n_said=len(self.tokens),
        )
        return Done(self.order.request, answer, rss_bytes=0, notices=tuple(self.notices))

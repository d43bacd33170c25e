"""`edgespec chat`: a conversation by plain streaming. Not covered: the full-screen face, saved sessions."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace

from edgespec.cli import INTERRUPTED, screen
from edgespec.cli import options as o
from edgespec.errors import AnswerCut, BadSetting, Cancelled, EdgespecError, WorkerDied
from edgespec.service.messages import Loaded
from edgespec.service.supervisor import Supervisor
from edgespec.types import Answer, Message, Notice, Sampling

HELP = """/help   this list
/clear  forget the conversation and start anew (also /new)
/stats  what the last answer cost
/plan   what was loaded, and why
/exit   leave (also /quit, /bye, Ctrl-D)
Ctrl-C stops an answer or drops a line; a second one in a row leaves.
A space in front of a / sends the line as text. A paste of several lines is one message."""


@o.flat
def chat(loading: o.Loading, answering: o.Answering, method: o.Method = "auto", shape: o.Shape = "auto") -> int:
    """Talk to a model."""
    sampling, asked = answering.sampling(), loading.settings(method, shape)
    with Supervisor() as worker:
        loaded = screen.load(worker, asked)
        return Conversation(worker, loaded, sampling, answering.max_tokens, answering.system).run()


class Conversation:
    """Reads lines, answers each; on a terminal with a prompt, commands and a line of figures below each answer."""

    def __init__(
        self,
        worker: Supervisor,
        loaded: Loaded,
        sampling: Sampling,
        max_tokens: int | None,
        system: str | None,
    ) -> None:
        self._worker, self._loaded = worker, loaded
        self._sampling, self._max_tokens = sampling, max_tokens
        self._system = [Message("system", system)] if system else []
        self._turns: list[Message] = []
        self._last: Answer | None = None
        self._n_asked = 0
        self._told = ""
        self._one_more_leaves = False

    def run(self) -> int:
        """The exit code, once the input has ended or the user wants to leave; raises Cancelled out of an answer."""
        return self._talk() if sys.stdin.isatty() and sys.stdout.isatty() else self._answer_lines()

    def _answer_lines(self) -> int:
        while (text := _next_line()) is not None:
            if text.strip() and self._turn(text.strip()).finish == "cancelled":
                return INTERRUPTED
        return 0

    def _talk(self) -> int:
        typed = _line_editor()
        print(_greeting(self._loaded))
        while True:
            try:
                text = _ask()
                if text is None or text in ("/exit", "/quit", "/bye"):
                    return 0
                self._one_more_leaves = False
                if text.startswith("/"):
                    self._command(text)
                elif text.strip():
                    self._exchange(text.strip())
            except KeyboardInterrupt:
                print()
                if self._one_more_leaves and not typed():
                    return INTERRUPTED
                self._one_more_leaves = True
                _note("(Ctrl-C once more leaves)", dim=True)

    def _exchange(self, text: str) -> None:
        """One message and its answer; what cannot be answered is said and dropped, but for what was begun or died."""
        try:
            answer = self._turn(text)
        except Cancelled:
            raise
        except AnswerCut as error:
            kept = "and the answer so far are kept" if error.text else "is kept and goes in front of the next one"
            then = "and a new process answers" if isinstance(error, WorkerDied) else "or /clear starts anew"
            _note(f"{error}; your message {kept}: type on, {then}")
        except EdgespecError as error:
            _note(f"{error}; your message was not sent: arrow up brings it back, /clear starts anew")
        else:
            self._one_more_leaves = answer.finish == "cancelled"
            _note(_ending(answer), dim=True)

    def _turn(self, text: str) -> Answer:
        """Answer one message and remember both; one stopped before its first token leaves no trace.

        Raises AnswerCut once as much as was said is remembered.
        """
        turns, asked = self._with_unanswered(text)
        # A seed a turn: the same question asked again after /clear gets another answer, and a session can be repeated.
        sampling = replace(self._sampling, seed=(self._sampling.seed + self._n_asked) % 2**64)
        self._n_asked += 1
        messages = [*self._system, *turns, asked]
        try:
            done = screen.answer(self._worker, messages, sampling, self._max_tokens, show=True, shows=self._is_news)
            answer = done.answer
        except AnswerCut as error:
            said = [Message("assistant", error.text, error.tokens)] if error.text else []
            self._turns = [*turns, asked, *said]
            raise
        if answer.tokens:
            self._last = answer
            self._turns = [*turns, asked, Message("assistant", answer.text, answer.tokens)]
        return answer

    def _is_news(self, notice: Notice) -> bool:
        """Turns that are left out again and again are told once."""
        if notice.kind != "turns":
            return screen.worth_a_line(notice)
        told, self._told = self._told, notice.text
        return notice.text != told

    def _with_unanswered(self, text: str) -> tuple[list[Message], Message]:
        """The turns before, and the message: together with one that was never answered, since chat templates want the
        two sides in turn. Typed again, it counts once."""
        if not self._turns or self._turns[-1].role != "user":
            return self._turns, Message("user", text)
        waiting = self._turns[-1].content
        return self._turns[:-1], Message("user", text if text == waiting else f"{waiting}\n\n{text}")

    def _command(self, text: str) -> None:
        if text in ("/help", "/?"):
            print(HELP)
        elif text in ("/clear", "/new"):
            self._turns.clear()
            print("the conversation starts anew")
        elif text == "/stats":
            print(stats(self._last) if self._last else "nothing was answered yet")
        elif text == "/plan":
            print("\n".join(f"{p.line:14} {p.value:20} {p.reason}" for p in (self._worker.loaded or self._loaded).plan))
        else:
            _note(f"{text.split()[0]} is no command; /help lists them (a space in front sends the line as text)")


def _ask() -> str | None:
    """What the user types, "" where there is nothing to send, None at the end of input."""
    try:
        text = input("> ").rstrip()
    except EOFError:
        print()
        return None
    if any("\ud800" <= c <= "\udfff" for c in text):
        _note("that line is not UTF-8 text and was not sent; check the terminal's encoding")
        return ""
    return text


def _next_line() -> str | None:
    """The next line of a pipe, None at its end; raises BadSetting where it is not UTF-8."""
    raw = sys.stdin.buffer.readline()
    try:
        return raw.decode("utf-8-sig").rstrip() if raw else None
    except UnicodeDecodeError as error:
        raise BadSetting(
            f"standard input is not UTF-8 text (byte {error.start} of a line); convert it with iconv -t UTF-8"
        ) from None


def _greeting(loaded: Loaded) -> str:
    drafter = next((p.value for p in loaded.plan if p.line == "drafter" and p.value != "none"), None)
    about = f": {loaded.note}" if loaded.note else ""
    return f"{loaded.model}{f' with drafter {drafter}' if drafter else ''}{about}. /help lists commands."


def _ending(answer: Answer) -> str:
    if not answer.tokens:
        return "(stopped before the answer began; your message is not part of the conversation)"
    cut = "(the answer reached its longest length, or the context is full) " if answer.finish == "length" else ""
    return cut + stats(answer)


def stats(a: Answer) -> str:
    """One line: how fast, and what speculation did."""
    seconds = a.predicted_ms / 1e3
    speed = a.n_timed / seconds if seconds else 0.0
    per_pass = a.n_timed / a.n_rounds if a.n_rounds else 0.0
    return (
        f"{len(a.tokens)} tokens, {speed:.1f} per second, {per_pass:.2f} a pass ({a.method}); "
        f"prompt {a.prompt_n} new + {a.cache_n} reused in {a.prompt_ms:.0f} ms"
    )


def _note(text: str, dim: bool = False) -> None:
    """A line of ours beside the answer, on stderr."""
    plain = not dim or "NO_COLOR" in os.environ or not sys.stderr.isatty()
    print(text if plain else f"\x1b[2m{text}\x1b[0m", file=sys.stderr)


def _line_editor() -> Callable[[], str]:
    """Let input() edit lines, and return what tells the line being typed."""
    try:
        import readline
    except ImportError:
        return lambda: ""  # Windows: the console edits lines itself
    if "libedit" not in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")  # Python switches it off
    return readline.get_line_buffer

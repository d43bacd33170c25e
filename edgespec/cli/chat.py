"""`edgespec chat`: a conversation by plain streaming."""

from __future__ import annotations

import sys

from edgespec.cli import options as o
from edgespec.cli import screen
from edgespec.cli.screen import load
from edgespec.errors import BadSetting, ContextOverflow
from edgespec.service.messages import Loaded
from edgespec.service.supervisor import Supervisor
from edgespec.types import Answer, Message, Sampling

_DEFAULT = Sampling()
HELP = """/help   this list
/clear  forget the conversation and start anew
/stats  what the last answer cost
/plan   what was loaded, and why
/exit   leave (also /quit, /bye, Ctrl-D)
Ctrl-C stops an answer; a second one leaves."""


def chat(
    model: o.Model = None,
    draft: o.Draft = None,
    method: o.Method = "auto",
    shape: o.Shape = "auto",
    nodes: o.Nodes = None,
    depth: o.Depth = None,
    context: o.Context = None,
    kv: o.Kv = "f16",
    exact: o.Exact = False,
    threads: o.Threads = None,
    system: o.System = None,
    max_tokens: o.MaxTokens = None,
    temperature: o.Temperature = _DEFAULT.temperature,
    top_k: o.TopK = _DEFAULT.top_k,
    top_p: o.TopP = _DEFAULT.top_p,
    min_p: o.MinP = _DEFAULT.min_p,
    repeat_penalty: o.RepeatPenalty = _DEFAULT.repeat_penalty,
    seed: o.Seed = None,
) -> int:
    """Talk to a model."""
    sampling = o.sampling(temperature, top_k, top_p, min_p, repeat_penalty, seed, max_tokens)
    asked = o.settings(model, draft, method, shape, nodes, depth, context, kv, exact, threads)
    with Supervisor() as worker:
        return Conversation(worker, load(worker, asked), sampling, max_tokens, system).run()


class Conversation:
    """Turns typed and answered; on a terminal it prompts and reports, in a pipe it only answers."""

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
        self._talking = sys.stdin.isatty() and sys.stdout.isatty()

    def run(self) -> int:
        if self._talking:
            _enable_line_editing()
            note = f": {self._loaded.note}" if self._loaded.note else ""
            print(f"{self._loaded.model} ({self._loaded.method}){note}. /help lists commands.")
        while True:
            try:
                text = self._read()
            except KeyboardInterrupt:
                print()
                return 130
            if text is None:
                return 0
            if text.startswith("/") and self._talking:
                if text in ("/exit", "/quit", "/bye"):
                    return 0
                self._command(text)
            elif text:
                self._turn(text)

    def _read(self) -> str | None:
        """One line, None at the end of input; raises BadSetting where a pipe is not UTF-8."""
        if self._talking:
            try:
                text = input("> ").strip()
            except EOFError:
                print()
                return None
            if any("\ud800" <= c <= "\udfff" for c in text):
                print("that line is not UTF-8 text; check the terminal's encoding", file=sys.stderr)
                return ""
            return text
        raw = sys.stdin.buffer.readline()
        try:
            return raw.decode("utf-8").strip() if raw else None
        except UnicodeDecodeError as error:
            raise BadSetting(
                f"standard input is not UTF-8 text (byte {error.start} of a line); convert it with iconv -t UTF-8"
            ) from None

    def _command(self, text: str) -> None:
        if text == "/help":
            print(HELP)
        elif text == "/clear":
            self._turns.clear()
            print("the conversation starts anew")
        elif text == "/stats":
            print(stats(self._last) if self._last else "nothing was answered yet")
        elif text == "/plan":
            print("\n".join(f"{p.line:14} {p.value:20} {p.reason}" for p in self._loaded.plan))
        else:
            print(f"{text.split()[0]} is no command; /help lists them", file=sys.stderr)

    def _turn(self, text: str) -> None:
        asked = Message("user", text)
        try:
            messages = [*self._system, *self._turns, asked]
            answer = screen.answer(self._worker, messages, self._sampling, self._max_tokens, echo=True).answer
        except ContextOverflow as error:
            if not self._talking:
                raise
            print(
                f"{error}; your message was not sent: arrow up brings it back, /clear starts anew",
                file=sys.stderr,
            )
            return
        self._last = answer
        self._turns += [asked, Message("assistant", answer.text, answer.tokens)]
        print("" if answer.text.endswith("\n") else "\n", end="", flush=True)
        if answer.finish == "length" and self._talking:
            print("(cut: the answer reached its longest length or the context is full)", file=sys.stderr)
        if self._talking:
            print(f"\x1b[2m{stats(answer)}\x1b[0m", file=sys.stderr)


def stats(a: Answer) -> str:
    """One line: how fast, and what speculation did."""
    seconds = a.predicted_ms / 1e3
    speed = len(a.tokens) / seconds if seconds else 0.0
    per_pass = len(a.tokens) / a.n_rounds if a.n_rounds else 0.0
    return (
        f"{len(a.tokens)} tokens, {speed:.1f} per second, {per_pass:.2f} a pass ({a.method}); "
        f"prompt {a.prompt_n} new + {a.cache_n} reused in {a.prompt_ms:.0f} ms"
    )


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401  (input() uses it once imported)
    except ImportError:
        return  # Windows: the console edits lines itself

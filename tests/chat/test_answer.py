"""An answer from start to end: pieces, stops, cancelling, sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from edgespec.chat.answer import Chat
from edgespec.errors import BadSetting, Cancelled, ContextOverflow, ModelUnusable
from edgespec.types import Answer, Choice, Message, Piece, Prefill, Sampling, Step

Toy = Callable[..., Any]
USER = [Message("user", "Hi")]
END = 259


@dataclass
class Script:
    """An engine that says what it was told, and remembers what it was asked and whether it was stopped."""

    rounds: Sequence[Sequence[int]]
    finish: str = "stop"
    failure: Exception | None = None
    method: str = "script"
    n_ctx: int = 1 << 20
    asked: dict[str, Any] = field(default_factory=dict)
    n_run: int = 0
    closed: bool = False

    running: Iterator[Prefill | Step] | None = None

    def generate(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        max_tokens: int | None,
        *,
        end_ids: frozenset[int],
        cancelled: Callable[[], bool] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Iterator[Prefill | Step]:
        self.asked = {"prompt": prompt, "sampling": sampling, "max_tokens": max_tokens, "end_ids": end_ids}
        self.running = self._events(cancelled or (lambda: False), progress)  # held: only close() ends it
        return self.running

    def _events(
        self, cancelled: Callable[[], bool], progress: Callable[[int, int], None] | None
    ) -> Iterator[Prefill | Step]:
        try:
            if self.failure:
                raise self.failure
            if progress:
                progress(10, 10)
            yield Prefill(10, 4, 2.0)
            for i, tokens in enumerate(self.rounds):
                stopped = cancelled()
                last = stopped or i == len(self.rounds) - 1
                self.n_run += not stopped
                finish: Any = ("cancelled" if stopped else self.finish) if last else None
                said = () if stopped else tuple(tokens)
                yield Step(said, Choice("m", 4, 3, 1), 3, max(len(said) - 1, 0), 1.0, 0.5, 0.25, finish)
                if last:
                    return
        finally:
            self.closed = True


def run(model: Any, script: Script, **more: Any) -> tuple[list[Piece], Answer]:
    """Pieces and the answer, after checking that together they are the same."""
    events = list(Chat(model, script).stream(USER, **{"sampling": Sampling(), **more}))
    *pieces, answer = events
    assert isinstance(answer, Answer)
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == answer.text
    assert tuple(t for piece in pieces for t in piece.ids) == answer.tokens
    assert script.closed
    return pieces, answer


def test_the_last_event_is_an_answer_with_the_sums(toy: Toy) -> None:
    """Worked by hand: three rounds, 6 tokens, 9 drafted; a wrong sum would show in a benchmark only."""
    script = Script([b"ab", b"cde", [END]])
    pieces, answer = run(toy(), script)
    assert [piece.text for piece in pieces] == ["ab", "cde", ""]
    assert answer == Answer(
        text="abcde",
        tokens=(*b"abcde", END),
        finish="stop",
        method="m",  # what drafted, whatever the engine was asked for
        prompt_n=6,
        cache_n=4,
        prompt_ms=2.0,
        predicted_ms=5.25,
        draft_n=9,
        draft_n_accepted=3,
        n_rounds=3,
        target_ms=3.0,
        draft_ms=1.5,
        overhead_ms=0.75,
    )


def test_the_engine_is_asked_what_the_caller_asked(toy: Toy) -> None:
    """A setting that is dropped on the way changes nothing visible."""
    model, script, seen = toy(), Script([[END]]), []
    sampling = Sampling(temperature=0.3, seed=7)
    run(
        model,
        script,
        sampling=sampling,
        max_tokens=5,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert script.asked == {
        "prompt": Chat(model, script).prompt_ids(USER),
        "sampling": sampling,
        "max_tokens": 5,
        "end_ids": model.end_ids,
    }
    assert seen == [(10, 10)]


def test_an_end_token_with_a_text_of_its_own_does_not_print(toy: Toy) -> None:
    """In some files "</s>" is an ordinary piece: it would stand at the end of every answer."""
    model = toy(end_ids=frozenset({ord("$")}))
    _, answer = run(model, Script([b"ab$"]))
    assert (answer.text, answer.tokens) == ("ab", tuple(b"ab$"))


def test_a_character_over_two_rounds_is_one_piece_with_both_ids(toy: Toy) -> None:
    """Ids wait with their text: a replay from pieces must be whole."""
    pieces, answer = run(toy(), Script([b"\xc3", b"\xa4b", [END]]))
    assert pieces == [Piece("äb", (0xC3, 0xA4, ord("b"))), Piece("", (END,))]
    assert answer.text == "äb"


@pytest.mark.parametrize("rounds", [[b"one", b" ST", b"OP two", b"x"], [b"one STOP two", b"x"]])
def test_a_stop_string_ends_the_answer_and_the_engine(rounds: list[bytes], toy: Toy) -> None:
    """Rounds after it would be computed for nobody; ids of its own round stay, they are in the cache."""
    script = Script(rounds)
    _, answer = run(toy(), script, stop=(" STOP",))
    assert (answer.text, answer.finish) == ("one", "stop")
    assert answer.tokens == tuple(b"one STOP two")
    assert script.n_run == len(rounds) - 1


def test_a_stop_string_beats_the_length_of_the_same_round(toy: Toy) -> None:
    """Both end here; "length" would tell the user that something is missing."""
    _, answer = run(toy(), Script([b"a#"], finish="length"), stop=("#",))
    assert answer.finish == "stop"
    _, answer = run(toy(), Script([b"a#"], finish="length"), stop=("##",))
    assert (answer.finish, answer.text) == ("length", "a#")


def test_a_cancelled_answer_keeps_what_was_said(toy: Toy) -> None:
    """Also the text that was held back as the possible beginning of a stop string."""
    script = Script([b"ab", b"c#", b"never"])
    _, answer = run(toy(), script, stop=("##",), cancelled=lambda: script.n_run == 2)
    assert (answer.text, answer.finish, answer.tokens) == ("abc#", "cancelled", tuple(b"abc#"))
    assert answer.n_rounds == 2


def test_cancelling_while_the_prompt_is_read_is_an_answer_too(toy: Toy) -> None:
    """Ctrl-C during a long prefill is the commonest cancel: no traceback, an empty answer."""
    pieces, answer = run(toy(), Script([b"x"], failure=Cancelled("stopped")))
    assert (pieces, answer.text, answer.finish, answer.prompt_n) == ([], "", "cancelled", 0)


def test_a_prompt_that_does_not_fit_is_the_caller_s_error(toy: Toy) -> None:
    """Only a cancel becomes an answer; an overflow must reach the one who can shorten the prompt."""
    script = Script([b"x"], failure=ContextOverflow(100, 50))
    with pytest.raises(ContextOverflow):
        list(Chat(toy(), script).stream(USER, sampling=Sampling()))
    assert script.closed


def test_closing_the_stream_stops_the_engine(toy: Toy) -> None:
    """A client that goes away must not keep the model busy."""
    script = Script([b"ab", b"cd", b"ef"])
    stream = Chat(toy(), script).stream(USER, sampling=Sampling())
    assert next(stream) == Piece("ab", tuple(b"ab"))
    stream.close()  # type: ignore[attr-defined]
    assert script.closed
    assert script.n_run == 1


def test_a_base_model_stops_before_the_user_s_next_line(toy: Toy) -> None:
    """Without a template and an end token it would play both parts until the context is full."""
    script = Script([b" Hello!\nUs", b"er: and", b"more"])
    chat = Chat(toy(chat_template=None), script)
    *_, answer = chat.stream(USER, sampling=Sampling())
    assert isinstance(answer, Answer)
    assert (answer.text, answer.finish) == (" Hello!", "stop")
    assert chat.warning is not None
    assert Chat(toy(), script).warning is None


def test_the_next_turn_extends_prompt_and_answer(toy: Toy) -> None:
    """What the caller does with an answer: back into the conversation with its ids."""
    script = Script([b"hell", [*b"o", END]])
    chat = Chat(toy(), script)
    *_, answer = chat.stream(USER, sampling=Sampling())
    assert isinstance(answer, Answer)
    turn = [*USER, Message("assistant", answer.text, answer.tokens), Message("user", "More")]
    held = [*script.asked["prompt"], *answer.tokens]
    assert chat.prompt_ids(turn)[: len(held)] == held


def test_what_cannot_be_asked_fails_before_the_engine_runs(toy: Toy) -> None:
    """An engine that was started would have to be stopped again, after a prefill."""
    script = Script([b"x"])
    for messages, stop in (([], ()), ([replace(USER[0], content=" ")], ()), (USER, ("",))):
        with pytest.raises(BadSetting):
            list(Chat(toy(), script).stream(messages, sampling=Sampling(), stop=stop))
    assert not script.asked
    with pytest.raises(ModelUnusable, match="chat template"):
        Chat(toy(chat_template="{% if %}"), script)

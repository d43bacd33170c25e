"""An answer that goes on behind ids that another process emitted: the same text, each character once, the same end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgespec.chat.answer import Chat
from edgespec.errors import ContextOverflow
from edgespec.types import Answer, Message, Piece, Sampling
from tests.chat.test_answer import END, USER, Script

Toy = Callable[..., Any]
STOP = ("##",)
TEXTS = {
    "characters in parts": "aä🎉b".encode(),
    "the beginning of a stop string that was none": b"a#b#",
    "a stop string": b"ab##cd",
    "bytes that are no text": b"a\xffb\xc3",
}


def stream(model: Any, script: Script, **more: Any) -> tuple[list[Piece], Answer]:
    *pieces, answer = Chat(model, script).stream(USER, **{"sampling": Sampling(), "stop": STOP, **more})
    assert isinstance(answer, Answer)
    assert all(isinstance(piece, Piece) for piece in pieces)
    return [piece for piece in pieces if isinstance(piece, Piece)], answer


def resumed(model: Any, arrived: Sequence[Piece], ids: Sequence[int], **more: Any) -> tuple[list[Piece], Answer]:
    """The rest of an answer of which these pieces arrived, from an engine that says one id a round."""
    said = [i for piece in arrived for i in piece.ids]
    rounds = [[i] for i in ids[len(said) :]]
    n_shown = sum(len(piece.text) for piece in arrived)
    return stream(model, Script(rounds), said=said, n_shown=n_shown, **more)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_wherever_the_pieces_broke_off_the_rest_is_what_had_not_been_shown(text: bytes, toy: Toy) -> None:
    """Ids travel with text that is certain, so some were said whose character or stop string was not complete; and the
    last piece flushes it, after which nothing but the end may come."""
    model, ids = toy(), [*text, END]
    pieces, whole = stream(model, Script([[i] for i in ids]))
    for n in range(len(pieces) + 1):
        rest, answer = resumed(model, pieces[:n], ids)
        assert "".join(piece.text for piece in [*pieces[:n], *rest]) == whole.text == answer.text
        assert tuple(i for piece in [*pieces[:n], *rest] for i in piece.ids) == whole.tokens == answer.tokens
        assert answer.finish == whole.finish


def test_the_prompt_is_the_conversation_and_what_was_said(toy: Toy) -> None:
    """The engine draws by position: said ids in another place would change every token behind them."""
    model, script = toy(), Script([b"c", [END]])
    stream(model, script, said=tuple(b"ab"), n_shown=2, max_tokens=5)
    assert script.asked["prompt"] == [*Chat(model, script).prompt_ids(USER), *b"ab"]
    assert script.asked["max_tokens"] == 3


@pytest.mark.parametrize(
    ("said", "max_tokens", "finish"),
    [([*b"ab", END], None, "stop"), ([*b"ab", END], 3, "stop"), (b"abc", 3, "length"), (b"ab##", 9, "stop")],
)
def test_an_answer_that_had_ended_asks_the_engine_nothing(
    said: Sequence[int], max_tokens: int | None, finish: str, toy: Toy
) -> None:
    """The process died between the last piece and the summary: one token more would be one too many."""
    script = Script([b"never"])
    pieces, answer = stream(toy(), script, said=said, n_shown=2 + (finish == "length"), max_tokens=max_tokens)
    assert (pieces, answer.finish, answer.tokens) == ([], finish, tuple(said))
    assert not script.asked


def test_a_context_that_was_full_is_a_length_and_no_refusal(toy: Toy) -> None:
    """The first process ended such an answer with "length"; the second sees a prompt that leaves no room."""
    pieces, answer = stream(toy(), Script([b"x"], failure=ContextOverflow(51, 50)), said=b"ab", n_shown=2)
    assert (pieces, answer.text, answer.finish) == ([], "ab", "length")


def test_a_context_that_became_too_short_is_no_length(toy: Toy) -> None:
    """A death would cut the answer, and whoever reads it would take it for one that was finished."""
    with pytest.raises(ContextOverflow):
        stream(toy(), Script([b"x"], failure=ContextOverflow(100, 50)), said=b"ab", n_shown=2)


def test_the_conversation_begins_where_the_first_process_began_it(toy: Toy) -> None:
    """The process that takes over may have another context: what it leaves out by itself is another prompt."""
    talk = [Message("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(9)]
    told: list[int] = []
    how: dict[str, Any] = {"sampling": Sampling(), "max_tokens": 10, "began": told.append}
    first = Script([b"ab"], n_ctx=120)
    list(Chat(toy(), first).stream(talk, **how))
    for n_ctx in (120, 500):
        script = Script([b"c", [END]], n_ctx=n_ctx)
        list(Chat(toy(), script).stream(talk, said=tuple(b"ab"), n_shown=2, start=told[0], **how))
        assert script.asked["prompt"] == [*first.asked["prompt"], *b"ab"]
    assert told == [told[0]] * 3
    assert told[0] > 0


def test_the_figures_are_of_what_was_done_here(toy: Toy) -> None:
    """Tokens of another process in this one's time would show as speed."""
    _, answer = stream(toy(), Script([b"cd", [END]]), said=b"ab", n_shown=2)
    assert (len(answer.tokens), answer.n_said, answer.n_timed) == (5, 2, 3)
    assert (answer.n_rounds, answer.draft_n_accepted, answer.predicted_ms) == (2, 1, 3.5)

"""Which turns a full conversation leaves out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from edgespec.chat.answer import Chat
from edgespec.chat.turns import AROUND
from edgespec.chat.turns import fitted as cut_to_fit
from edgespec.chat.turns import resumed as go_on
from edgespec.types import Answer, Message, Notice, Sampling
from tests.chat.test_answer import END, Script

Toy = Callable[..., Any]


def encode(messages) -> list[int]:
    """10 tokens a message and 4 of the template."""
    return [int(m.content) for m in messages for _ in range(10)] + [0] * 4


def turns(n: int, system: bool = False) -> list[Message]:
    """n messages, user and assistant in turn, the last one the user's; contents are their numbers."""
    talk = [Message("user" if (n - i) % 2 else "assistant", str(i)) for i in range(n)]
    return [Message("system", "99"), *talk] if system else talk


def fitted(messages, encode, n_ctx: int, max_tokens: int | None):
    """With counts that are right but for what the template puts at the end."""
    found = cut_to_fit(messages, encode, lambda _: 10 - AROUND, n_ctx, max_tokens)
    return found.prompt, list(found.notices)


def kept(prompt: list[int]) -> list[int]:
    return prompt[:-4:10]


def test_a_conversation_that_fits_is_left_as_it_is() -> None:
    """Fails when turns are lost though there is room: 94 of prompt and 25 of answer in 119 or more."""
    assert fitted(turns(9), encode, 119, 25) == (encode(turns(9)), [])


@pytest.mark.parametrize(("n_ctx", "left"), [(118, [4, 5, 6, 7, 8]), (97, [4, 5, 6, 7, 8]), (40, [8])])
def test_the_oldest_pairs_go_until_an_answer_has_room(n_ctx: int, left: list[int]) -> None:
    """Fails when the newest go instead, a question without its answer, or fewer than it takes: 94 do not fit into 93,
    of which three fifths stay, and neither do 70 and a template into 72."""
    prompt, notices = fitted(turns(9), encode, n_ctx, 25)
    assert kept(prompt) == left
    n_out = 9 - len(left)
    text = f"the oldest {n_out} messages no longer fit into the context of {n_ctx} tokens and were left out"
    assert notices == [Notice("turns", text)]


def test_what_remains_begins_at_the_same_place_until_it_has_grown_full_again() -> None:
    """Fails when every turn moves the beginning, and with it every token of the cache: room for 172, cut to 103."""
    starts = [int(kept(fitted(turns(n), encode, 197, 25)[0])[0]) for n in range(1, 60, 2)]
    moves = [i for i in range(1, len(starts)) if starts[i] != starts[i - 1]]
    assert starts == sorted(starts)
    assert all(later - sooner >= 3 for sooner, later in pairwise(moves))


def test_the_system_message_stays() -> None:
    """Fails when the rules of a conversation are forgotten first."""
    prompt, notices = fitted(turns(9, system=True), encode, 75, 25)
    assert kept(prompt) == [99, 8]
    assert len(notices) == 1


def test_an_answer_of_no_given_length_has_256_tokens_or_a_quarter() -> None:
    """Fails when a short context leaves everything out for an answer, or a long one leaves no room."""
    assert fitted(turns(9), encode, 94 + 256 + 700, None)[1] == []
    assert kept(fitted(turns(9), encode, 124, None)[0]) == [4, 5, 6, 7, 8]  # 93 of 124 are for the prompt
    assert fitted(turns(9), encode, 126, None)[1] == []


@pytest.mark.parametrize("system", [False, True])
def test_what_is_too_long_by_itself_is_for_the_engine_to_refuse(system: bool) -> None:
    """Fails when turns are said to be left out of an answer that never comes, or the last message is cut."""
    prompt, notices = fitted(turns(5, system), encode, 14, 5)
    assert kept(prompt) == ([99, 4] if system else [4])
    assert notices == []


def test_a_last_message_that_fits_with_one_token_to_spare_is_asked() -> None:
    """Fails when room for an answer is insisted on with nothing left to leave out: 14 of 15 tokens."""
    prompt, notices = fitted(turns(3), encode, 15, 5)
    assert kept(prompt) == [2]
    assert len(notices) == 1


def test_a_long_conversation_is_rendered_a_few_times_only() -> None:
    """Fails when every turn is tried in order: 500 of them would be rendered 500 times, every time."""
    calls: list[int] = []

    def counted(messages) -> list[int]:
        calls.append(1)
        return encode(messages)

    prompt, _ = fitted(turns(1001), counted, 1000, 100)
    assert len(prompt) <= 900
    assert len(calls) <= 12


def resumed(n_ctx: int, n_said: int, start: int):
    return go_on(turns(9), encode, lambda _: 10 - AROUND, n_ctx, 25, n_said, start)


@pytest.mark.parametrize("start", [0, 2, 4, 8])
def test_an_answer_that_goes_on_finds_the_beginning_it_had_in_any_context_that_holds_it(start: int) -> None:
    """Fails when the place is chosen anew: by a shorter context turns vanish in mid-answer, by a longer one they come
    back, and the text behind them is another one."""
    n_prompt = 10 * (9 - start) + 4
    for n_ctx in (n_prompt + 20, n_prompt + 60, 4096):
        found = resumed(n_ctx, 20, start)
        assert (kept(found.prompt), found.start, found.notices) == ([*range(start, 9)], start, ())


def test_a_context_that_no_longer_holds_beginning_and_answer_leaves_more_out_and_says_so() -> None:
    """Fails when such an answer ends early as if its context had been full, or what was said is not counted: of 110
    tokens 20 are said and 5 wanted, and 94 do not fit into the rest."""
    found = resumed(110, 20, 0)
    assert found.start == int(kept(found.prompt)[0]) > 0
    assert len(found.prompt) + 20 + 5 <= 110
    assert [notice.n_tokens for notice in found.notices] == [20]


def test_chat_says_what_it_left_out_before_the_answer(toy: Toy) -> None:
    """Fails when turns vanish silently, or the engine is asked with all of them."""
    script = Script([b"ok", [END]], n_ctx=120)
    chat = Chat(toy(), script)
    talk = [Message("user" if i % 2 == 0 else "assistant", f"message {i}") for i in range(9)]
    first, *_, last = chat.stream(talk, sampling=Sampling(), max_tokens=10)
    assert isinstance(first, Notice)
    assert first.kind == "turns"
    assert isinstance(last, Answer)
    n_out = int(first.text.split()[2])
    assert script.asked["prompt"] == chat.prompt_ids(talk[n_out:])


def test_chat_passes_on_what_the_engine_says(toy: Toy) -> None:
    """Fails when a step of the ladder is taken for a round, or swallowed."""
    script = Script([b"ab", b"c", [END]])
    notice = Notice("ladder", "memory is short", 2)
    inner = script.generate

    def generate(*args: Any, **more: Any):
        for i, event in enumerate(inner(*args, **more)):
            if i == 2:
                yield notice
            yield event

    script.generate = generate  # type: ignore[method-assign]
    events = list(Chat(toy(), script).stream([Message("user", "Hi")], sampling=Sampling()))
    assert events.index(notice) == 1
    assert events[-1].text == "abc"

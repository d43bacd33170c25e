"""Prompts extend what the cache holds, and say what the conversation says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgespec.chat.prompt import encode
from edgespec.chat.templates import ChatTemplate
from edgespec.errors import BadSetting
from edgespec.types import Message

Toy = Callable[..., Any]
HELLO = tuple(b"hello there")  # the tokenizer would take he+ll+o_+th+er+e
USER = Message("user", "Hi")


def ids_of(model: Any, messages: list[Message]) -> list[int]:
    template = ChatTemplate(model.chat_template, model.bos_text, model.eos_text)
    return encode(model, template, messages, model.pieces())


def rendered(model: Any, messages: list[Message]) -> str:
    return ChatTemplate(model.chat_template, model.bos_text, model.eos_text).render(messages)


def talk(content: str, ids: tuple[int, ...] | None) -> list[Message]:
    return [USER, Message("assistant", content, ids), Message("user", "And then?")]


def test_a_prompt_is_the_rendered_text_with_control_tokens_as_ids(toy: Toy) -> None:
    """Control tokens tokenised as text would be a prompt the model never saw in training."""
    assert ids_of(toy(), [USER]) == [258, *b"us", 270, 10, *b"Hi", 259, 10, 258, *b"assistant\n"]


@pytest.mark.parametrize(("name", "end"), [("chatml", 259), ("llama3", 260), ("gemma", 263), ("mistral", 257)])
def test_the_next_prompt_extends_the_last_one_and_its_answer(
    name: str, end: int, toy: Toy, templates: dict[str, str]
) -> None:
    """Tokenised again, the answer has other ids, and everything after them is prefilled a second time."""
    model = toy(chat_template=templates[name])
    first = ids_of(model, [USER])
    if name == "mistral":
        first = [*first, ord(" ")]  # its template writes a space before an answer
    second = ids_of(model, talk("hello there", (*HELLO, end)))
    assert second[: len(first) + len(HELLO) + 1] == [*first, *HELLO, end]
    assert second[len(first) + len(HELLO) + 1] != end, "the template writes the end, the ids have it too"
    assert model.spell(second) == rendered(model, talk("hello there", None))


def test_several_answers_all_keep_their_ids(toy: Toy) -> None:
    """A long conversation is where it matters; each place must get its own answer's ids."""
    model, messages = toy(), []
    for ids in (b"hello", b"then", b"hello"):
        messages += [USER, Message("assistant", bytes(ids).decode(), tuple(ids))]
    prompt = ids_of(model, [*messages, USER])
    assert model.spell(prompt) == rendered(model, [*messages, USER])
    assert bytes(t for t in prompt if t < 256).count(b"hello") == 2
    assert bytes(t for t in prompt if t < 256).count(b"then") == 1


def test_an_answer_without_ids_is_tokenised(toy: Toy) -> None:
    """Sessions from disk, or messages of an HTTP client, have text only."""
    model = toy()
    prompt = ids_of(model, talk("hello there", None))
    assert prompt == model.tokenize(rendered(model, talk("hello there", None)).encode(), special=True)
    assert bytes(HELLO) not in bytes(t for t in prompt if t < 256)


def test_ids_that_say_something_else_are_not_used(toy: Toy) -> None:
    """An edited answer, or one cut at a stop string, must be what is written, not what was generated."""
    model = toy()
    for content in ("hello ther", "hello there!", "goodbye"):
        messages = talk(content, (*HELLO, 259))
        assert ids_of(model, messages) == ids_of(model, talk(content, None))
        assert model.spell(ids_of(model, messages)) == rendered(model, messages)


def test_an_answer_that_the_template_changes_stays_text(toy: Toy, templates: dict[str, str]) -> None:
    """Llama 3 trims, reasoning templates cut: ids would say what the template took away."""
    model = toy(chat_template=templates["llama3"])
    messages = talk(" hello ", tuple(b" hello "))
    assert model.spell(ids_of(model, messages)) == rendered(model, messages)
    cutting = toy(chat_template="{% for m in messages %}{{ m.content.split('|')[-1] }}<|im_end|>{% endfor %}")
    messages = talk("think|hello", tuple(b"think|hello"))
    assert cutting.spell(ids_of(cutting, messages)) == "Hi<|im_end|>hello<|im_end|>And then?<|im_end|>"


def test_one_changed_answer_does_not_cost_the_others(toy: Toy, templates: dict[str, str]) -> None:
    """The cache is good up to the first difference: answers before it must still be their ids."""
    model = toy(chat_template=templates["llama3"])
    kept, changed = (
        Message("assistant", "hello", tuple(b"hello")),
        Message("assistant", " then ", tuple(b" then ")),
    )
    prompt = ids_of(model, [USER, kept, USER, changed, USER])
    held = [*ids_of(model, [USER]), *b"hello"]
    assert prompt[: len(held)] == held
    assert model.spell(prompt) == rendered(model, [USER, kept, USER, changed, USER])


def test_the_same_words_elsewhere_are_not_mistaken_for_the_answer(toy: Toy) -> None:
    """The answer "hello" after a user who said "hello": only one of the two was generated."""
    model = toy()
    messages = [Message("user", "hello"), Message("assistant", "hello", tuple(b"hello")), USER]
    prompt = ids_of(model, messages)
    assert bytes(t for t in prompt if t < 256).count(b"hello") == 1
    asked = ids_of(model, messages[:1])
    assert prompt[: len(asked)] == asked


def test_a_gap_that_would_gain_a_space_is_not_tokenised_by_itself(toy: Toy) -> None:
    """SentencePiece puts a space before a text: in mid-conversation it would be a character nobody wrote."""
    plain = toy(chat_template=None, space_prefix=True)
    messages = talk("hello", tuple(b"hello"))
    assert plain.spell(ids_of(plain, messages)) == " " + rendered(plain, messages)
    clean = toy(chat_template=None)
    assert bytes(t for t in ids_of(clean, messages) if t < 256).count(b"hello") == 1, "no such tokenizer: ids"


def test_the_opening_token_comes_once(toy: Toy, templates: dict[str, str]) -> None:
    """The template may write it, the tokenizer may add it: twice is as bad for a model as never."""
    for adds_bos in (False, True):
        for name in templates:
            prompt = ids_of(toy(chat_template=templates[name], adds_bos=adds_bos), [USER])
            wanted = 1 if adds_bos or name != "chatml" else 0
            assert prompt.count(256) == wanted
            assert prompt[0] == (256 if wanted else 258)
    nameless = ids_of(toy(adds_bos=True, bos_text=""), talk("hello", tuple(b"hello")))
    assert nameless.count(256) == 1


def test_nothing_to_answer_is_a_sentence(toy: Toy) -> None:
    """An empty prompt would make the model talk to itself."""
    for messages in ([], [Message("user", " \n")], [Message("system", "x"), Message("user", "")]):
        with pytest.raises(BadSetting, match="empty"):
            ids_of(toy(), messages)


def test_text_that_is_not_unicode_is_a_sentence(toy: Toy) -> None:
    """Undecodable bytes of a terminal arrive as lone surrogates, which UTF-8 refuses late."""
    with pytest.raises(BadSetting, match="UTF-8"):
        ids_of(toy(), [Message("user", "caf\udce9")])

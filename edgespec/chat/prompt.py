"""A conversation to the ids of its prompt, so that a next turn extends the last one's cache.

An answer that this process generated goes into the next prompt as the very ids that were emitted: tokenising
its text again may give others, and every token from the first difference on would be computed a second time.

Not covered: control tokens written out by the user, which count as what they say, as in other tools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgespec.backends.base import Model
from edgespec.chat.templates import ChatTemplate
from edgespec.chat.text import decode
from edgespec.errors import BadSetting, EdgespecError
from edgespec.types import Message


def encode(model: Model, template: ChatTemplate, messages: Sequence[Message], pieces: Sequence[bytes]) -> list[int]:
    """Ids of the rendered conversation; pieces is model.pieces(), kept by the caller.

    Raises BadSetting for an empty conversation or user message and for text that is not Unicode, and what
    ChatTemplate.render raises.
    """
    _check(messages)
    text = template.render(messages)
    add_bos = model.adds_bos and not (model.bos_text and text.startswith(model.bos_text))
    answers = _reusable(messages, pieces, model.end_ids)
    places, gaps = _locate(template, messages, text, answers)
    gap_ids = [
        model.tokenize(_utf8(gap), special=True, add_bos=add_bos and i == 0) if gap or i == 0 else []
        for i, gap in enumerate(gaps)
    ]
    if not all(_joins(gap, ids, pieces) for gap, ids in zip(gaps[1:], gap_ids[1:], strict=True)):
        return model.tokenize(_utf8(text), special=True, add_bos=add_bos)
    prompt = list(gap_ids[0])
    for place, ids in zip(places, gap_ids[1:], strict=True):
        prompt += answers[place]
        prompt += ids
    return prompt


def _check(messages: Sequence[Message]) -> None:
    if not messages:
        raise BadSetting("the conversation is empty; write something first")
    for message in messages:
        if message.role == "user" and not message.content.strip():
            raise BadSetting("the prompt is empty; write something first")


def _utf8(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadSetting(
            f"the prompt holds {text[error.start]!r}, which is no Unicode character; give it as UTF-8 text"
        ) from None


def _reusable(messages: Sequence[Message], pieces: Sequence[bytes], end_ids: frozenset[int]) -> dict[int, list[int]]:
    """By index of the message: the ids, less end tokens at their tail, that say exactly its content."""
    found = {}
    for index, message in enumerate(messages):
        ids = list(message.ids or ())
        while ids and ids[-1] in end_ids:
            ids.pop()
        if message.role == "assistant" and message.content and decode(pieces, ids) == message.content:
            found[index] = ids
    return found


def _locate(
    template: ChatTemplate, messages: Sequence[Message], text: str, answers: Mapping[int, list[int]]
) -> tuple[list[int], list[str]]:
    """Messages whose content stands verbatim at its place in the rendered text, and the text between them.

    One more gap than places; no places: one gap, the whole text. A template may trim, cut or drop an answer;
    those stay text.
    """
    places = list(answers)
    gaps = _gaps(template, messages, text, places) if places else None
    if gaps is None and len(places) > 1:
        places = [place for place in places if _gaps(template, messages, text, [place]) is not None]
        gaps = _gaps(template, messages, text, places)
    return ([], [text]) if gaps is None else (places, gaps)


def _gaps(template: ChatTemplate, messages: Sequence[Message], text: str, places: Sequence[int]) -> list[str] | None:
    """The text around these messages' contents, or None where one is not verbatim at its place.

    Found by rendering with marks in place of the contents.
    """
    stem = "\ue000answer"
    while stem in text:
        stem += "'"
    marks = {place: f"{stem}{place}\ue001" for place in places}
    marked = [replace(m, content=marks[i]) if i in marks else m for i, m in enumerate(messages)]
    try:
        rest = template.render(marked)
    except EdgespecError:
        return None
    gaps = []
    for place in places:
        before, found, rest = rest.partition(marks[place])
        if not found:
            return None
        gaps.append(before)
    gaps.append(rest)
    spelt = "".join(gap + messages[place].content for gap, place in zip(gaps, places, strict=False)) + gaps[-1]
    return gaps if spelt == text else None


def _joins(gap: str, ids: Sequence[int], pieces: Sequence[bytes]) -> bool:
    """Whether a gap tokenised by itself may follow an answer: it begins as the text does.

    Tokenizers that put a space before a text would put one into the middle of the conversation.
    """
    return not ids or _utf8(gap).startswith(pieces[ids[0]])

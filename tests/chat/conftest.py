"""What the chat tests share: templates in the style of four families, a toy model with a toy tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = """{{- bos_token }}
{%- if tools is not none %}
    {{- raise_exception("no tools here") }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {{ raise_exception('System role not supported') }}
{%- endif -%}
{%- for message in messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\n' + (message['content'] | trim) + '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
MISTRAL = """{{- bos_token }}
{%- set turns = messages | rejectattr("role", "equalto", "system") | list %}
{%- for message in turns %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("After the optional system message, roles must alternate user/assistant") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {{- "[INST] " + message["content"] + " [/INST]" }}
    {%- else %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {"chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA, "mistral": MISTRAL}

_CONTROL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "[INST]", "[/INST]", "<end_of_turn>"]
_PAIRS = ["he", "ll", "o ", "th", "e ", "in", "er"]


@dataclass
class Toy:
    """Ids 0-255 are bytes, then control tokens, then letter pairs that the tokenizer takes where it can.

    A model may say "hello" as five bytes though the tokenizer says it in three: as real ones do.
    space_prefix: like SentencePiece models, a text or a text after a control token gets a space in front.
    """

    chat_template: str | None = CHATML
    adds_bos: bool = False
    bos_text: str = "<s>"
    eos_text: str = "</s>"
    space_prefix: bool = False
    end_ids: frozenset[int] = frozenset({257, 259, 260, 263})
    name: str = "toy"
    n_ctx_train: int = 4096
    weight_bytes: int = 0
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def n_vocab(self) -> int:
        return 256 + len(_CONTROL) + len(_PAIRS)

    def pieces(self) -> list[bytes]:
        return [bytes([b]) for b in range(256)] + [b""] * len(_CONTROL) + [p.encode() for p in _PAIRS]

    def tokenize(self, text: bytes, *, special: bool, add_bos: bool = False) -> list[int]:
        ids = [256] if add_bos else []
        pattern = "|".join(re.escape(c) for c in _CONTROL).encode()
        for part in re.split(b"(" + pattern + b")", text) if special else [text]:
            if part.decode("utf-8", "replace") in _CONTROL:
                ids.append(256 + _CONTROL.index(part.decode()))
            elif part:
                ids += self._plain(b" " * self.space_prefix + part)
        return ids

    def _plain(self, text: bytes) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            pair = text[at : at + 2].decode("latin-1")
            known = pair in _PAIRS
            ids.append(256 + len(_CONTROL) + _PAIRS.index(pair) if known else text[at])
            at += 2 if known else 1
        return ids

    def spell(self, ids: list[int]) -> str:
        """The text of ids with control tokens written out, as a template would have them."""
        pieces = self.pieces()
        written = (_CONTROL[i - 256].encode() if 256 <= i < 256 + len(_CONTROL) else pieces[i] for i in ids)
        return b"".join(written).decode()

    def open(self, spec: object) -> object:
        raise NotImplementedError

    def close(self) -> None: ...


@pytest.fixture
def toy() -> Callable[..., Toy]:
    return Toy


@pytest.fixture
def templates() -> dict[str, str]:
    return TEMPLATES

"""Templates: Hugging Face's dialect, conversations they refuse, templates that are broken or mean harm."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

import edgespec
from edgespec.chat.templates import NO_TEMPLATE, ChatTemplate, fold_system
from edgespec.errors import BadSetting, ModelUnusable
from edgespec.gguf.header import read_header
from edgespec.types import Message

SYSTEM, USER, REPLY = Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello!")
TALK = [USER, REPLY, Message("user", "Bye")]


def render(source: str | None, messages: list[Message], seconds: float = 5.0) -> str:
    return ChatTemplate(source, "<s>", "</s>", seconds=seconds).render(messages)


def test_the_demo_s_own_template_renders() -> None:
    """The template that most people will run first; worked by hand from its model card."""
    demo = Path(edgespec.__file__).parent / "demo" / "demo.gguf"
    source = read_header(demo).metadata["tokenizer.chat_template"]
    assert isinstance(source, str)
    assert ChatTemplate(source, "<|bos|>", "<|end|>").render([SYSTEM, *TALK]) == (
        "<|bos|><|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Hello!<|end|><|user|>Bye<|end|><|assistant|>"
    )


def test_four_families_render(templates: dict[str, str]) -> None:
    """Worked by hand; a newline too many after a block tag (trim_blocks) would move every prompt."""
    assert render(templates["chatml"], [SYSTEM, USER]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(templates["llama3"], [SYSTEM, USER]) == (
        "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert render(templates["gemma"], TALK) == (
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n"
    )
    assert render(templates["mistral"], TALK) == "<s>[INST] Hi [/INST] Hello!</s>[INST] Bye [/INST]"


def test_a_system_message_that_is_refused_goes_into_the_first_user_message(
    templates: dict[str, str],
) -> None:
    """Gemma raises; a user who gives -s wants it said, not an error."""
    assert render(templates["gemma"], [SYSTEM, *TALK]) == render(
        templates["gemma"], [Message("user", "Be kind.\n\nHi"), *TALK[1:]]
    )


def test_a_system_message_that_is_dropped_goes_into_the_first_user_message(templates: dict[str, str]) -> None:
    """A template that leaves it out says nothing: the instructions would be lost in silence."""
    assert "Be kind." in render(templates["mistral"], [SYSTEM, USER])


def test_folding_puts_system_text_before_the_next_user_message() -> None:
    """System messages may stand anywhere; none may vanish, and the order of turns must stay."""
    late = Message("system", "Be brief.")
    assert fold_system([SYSTEM, late, USER, REPLY]) == [Message("user", "Be kind.\n\nBe brief.\n\nHi"), REPLY]
    assert fold_system([USER, REPLY, late]) == [USER, REPLY, Message("user", "Be brief.")]
    assert fold_system(TALK) == TALK


def test_a_refused_conversation_is_a_sentence_with_the_template_s_reason(templates: dict[str, str]) -> None:
    """Two user turns in a row: the user can act, so it is a bad setting and no broken file."""
    for name in ("gemma", "mistral"):
        with pytest.raises(BadSetting, match="roles must alternate"):
            render(templates[name], [USER, USER])
        with pytest.raises(BadSetting, match="roles must alternate"):
            render(templates[name], [SYSTEM, USER, USER])


def test_the_dialect_is_hugging_face_s() -> None:
    """jinja2's own tojson escapes for HTML, and break, strftime_now and generation are not jinja2's."""
    assert render("{{ {'b': '<é&>', 'a': none} | tojson }}", [USER]) == '{"b": "<é&>", "a": null}'
    assert render("{{ [1] | tojson(indent=2) }}", [USER]) == "[\n  1\n]"
    assert render("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", [USER]) == "01"
    assert re.fullmatch(r"\d\d [A-Z]\w+ \d{4}", render("{{ strftime_now('%d %B %Y') }}", [USER]))
    assert render("a{% generation %}b{% endgeneration %}c", [USER]) == "abc"
    assert render("{{ bos_token ~ eos_token }}{{ tools is none }}{{ nothing }}", [USER]) == "<s></s>True"
    assert render("  {% set x %}q{% endset %}\n{{ x ~ x | upper }}\n", [USER]) == "qQ"


def test_no_template_means_plain_lines_and_a_warning() -> None:
    """Base models have none; they go on with the user's next line unless that ends the answer."""
    for source in (None, "", " \n"):
        template = ChatTemplate(source, "<s>", "</s>")
        assert template.render([SYSTEM, USER]) == "System: Be kind.\n\nUser: Hi\n\nAssistant:"
        assert template.warning == NO_TEMPLATE
        assert template.stop == ("\nUser:",)
    template = ChatTemplate("x", "", "")
    assert template.warning is None
    assert template.stop == ()


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{ 'open",
        "{% endfor %}",
        "{% unknown_tag %}",
        "{{ x | no_such_filter }}",
        "{{ nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content + 1 }}",
        "{% include 'other' %}",
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "x" * (2 << 20),
    ],
)
def test_a_broken_template_is_a_sentence(source: str) -> None:
    """jinja2, Python's compiler and the template's own code each raise errors of their own."""
    with pytest.raises(ModelUnusable) as caught:
        render(source, [USER])
    assert str(caught.value).startswith("the model's chat template ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'x'}) }}",
        "{{ (messages | map(attribute='__class__') | list)[0].__mro__ }}",
    ],
)
def test_a_template_reaches_nothing_but_its_values(source: str) -> None:
    """A template comes out of a download: with Python's classes in hand it could run any command."""
    with pytest.raises(ModelUnusable):
        render(source, [USER])


@pytest.mark.parametrize(
    "source",
    [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set many = range(100000) | list %}{% for i in many if -1 in many %}{% endfor %}",
        "{{ range(100000) | reject('in', range(1000, 100000) | list) | list | length }}",
        "{{ ([range(100000)] * 100000) | map('sum') | list | length }}",
        "{% set ns = namespace(d=0) %}{% block a %}{% if ns.d < 40 %}{% set ns.d = ns.d + 1 %}"
        "{{ self.a() }}{{ self.a() }}{% set ns.d = ns.d - 1 %}{% endif %}{% endblock %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% macro f(n) %}{% if n %}{{ caller() }}{% call f(n - 1) %}{% endcall %}"
        "{% call f(n - 1) %}{% endcall %}{% endif %}{% endmacro %}{% call f(60) %}{% endcall %}",
    ],
)
def test_a_template_cannot_run_for_ever(source: str) -> None:
    """Loops in loops, filtered loops and doubling macros: 10^10 steps and more without any output."""
    start = time.monotonic()
    with pytest.raises(ModelUnusable, match="seconds"):
        render(source, [USER], seconds=0.1)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 10000000000 * 'a' }}",
        "{{ [0] * 10000000000 }}",
        "{{ 9 ** 999999999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 1000000000) }}",
        "{{ '{a:{b}}'.format_map({'a': 1, 'b': 1000000000}) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ [1] | batch(1000000000, 0) | list }}",
        "{{ range(1000000000) | list }}",
        "{% for i in range(100000) %}{{ 'a' * 100000 }}{% endfor %}",
        *(
            "{% set ns = namespace(x='aaaa') %}{% for i in range(90) %}" + grow + "{% endfor %}"
            for grow in (
                "{% set ns.x = ns.x ~ ns.x %}",
                "{% set ns.x = ns.x + ns.x %}",
                "{% set ns.x = [ns.x, ns.x] | join %}",
                "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
                "{% set ns.x | upper %}{{ ns.x }}{{ ns.x }}{% endset %}",
            )
        ),
    ],
)
def test_a_template_cannot_make_gigabytes(source: str) -> None:
    """One expression can ask for any amount of memory, at compile time too (constant folding)."""
    start = time.monotonic()
    with pytest.raises(ModelUnusable, match=r"\(it (makes|asks|computes)"):
        render(source, [USER])
    assert time.monotonic() - start < 1


def test_a_long_conversation_is_not_taken_for_an_attack(templates: dict[str, str]) -> None:
    """The limits grow with what was said: a pasted book must go through every template."""
    book = "word " * 500_000
    for source in templates.values():
        assert book.strip() in render(source, [SYSTEM, Message("user", book)])

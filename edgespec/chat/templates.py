"""Messages to text, by the chat template in the model file (jinja2, Hugging Face's dialect).

A template that refuses or drops system messages gets their text at the head of the next user message, as
other tools do. A file without a template gets plain "User: ... Assistant:" lines, and says so.

Not covered: tools, pictures, reasoning switches, named second templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jinja2 import Template
from jinja2.exceptions import TemplateSyntaxError

from edgespec.chat.sandbox import SECONDS, Refused, TemplateEnvironment
from edgespec.errors import BadSetting, ModelUnusable
from edgespec.types import Message

NO_TEMPLATE = (
    "the model file has no chat template; plain User:/Assistant: lines are used, "
    "so answers may be worse than the model can give"
)
_MAX_SOURCE = 1 << 20
_MEND = "use another file of the model"


class ChatTemplate:
    """A chat template, compiled once; renders any number of conversations.

    warning  a line for the user when there is none in the file, else None
    stop     strings that end an answer besides the model's end tokens
    """

    def __init__(self, source: str | None, bos_text: str, eos_text: str, *, seconds: float = SECONDS) -> None:
        """Raises ModelUnusable where the source is not a template."""
        self._values = {"bos_token": bos_text, "eos_token": eos_text, "tools": None, "documents": None}
        self._environment = TemplateEnvironment(seconds)
        self._template = self._compile(source) if source and source.strip() else None
        self.warning = None if self._template else NO_TEMPLATE
        self.stop: tuple[str, ...] = () if self._template else ("\nUser:",)

    def render(self, messages: Sequence[Message]) -> str:
        """The conversation as text, ending where the model's answer begins.

        Raises BadSetting where the template refuses the conversation, ModelUnusable where it fails.
        """
        if self._template is None:
            return _plain(messages)
        system = [m.content.strip() for m in messages if m.role == "system"]
        if not system:
            return self._render(self._template, messages)
        try:
            text = self._render(self._template, messages)
        except BadSetting:
            return self._render(self._template, fold_system(messages))
        if all(content in text for content in system):
            return text
        return self._render(self._template, fold_system(messages))

    def _compile(self, source: str) -> Template:
        if len(source) > _MAX_SOURCE:
            raise ModelUnusable(f"the model's chat template is {len(source):,} characters long; {_MEND}")
        try:
            return self._environment.compile_limited(source)
        except TemplateSyntaxError as error:
            reason = f"{error.message} in line {error.lineno}"
            raise ModelUnusable(f"the model's chat template has an error ({reason}); {_MEND}") from None
        except Exception as error:  # the source is foreign: Python's compiler has its own limits and errors
            raise ModelUnusable(f"the model's chat template cannot be read ({_brief(error)}); {_MEND}") from None

    def _render(self, template: Template, messages: Sequence[Message]) -> str:
        values = {**self._values, "messages": [m.rendered() for m in messages], "add_generation_prompt": True}
        room = 1_000_000 + 8 * sum(len(m.content) for m in messages)
        try:
            return self._environment.render(template, values, room)
        except Refused as error:
            reason = _brief(error)
            raise BadSetting(
                f"the model's chat template refuses this conversation ({reason}); start a new one"
            ) from None
        except Exception as error:  # foreign code may raise anything: TemplateError, TypeError, RecursionError
            raise ModelUnusable(f"the model's chat template fails ({_brief(error)}); {_MEND}") from None


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """The conversation without system messages, their text put before the next user message's.

    System text that no user message follows becomes a user message at the end.
    """
    folded: list[Message] = []
    pending: list[str] = []
    for message in messages:
        if message.role == "system":
            pending.append(message.content)
        elif message.role == "user" and pending:
            folded.append(replace(message, content="\n\n".join([*pending, message.content])))
            pending = []
        else:
            folded.append(message)
    return [*folded, Message("user", "\n\n".join(pending))] if pending else folded


def _plain(messages: Sequence[Message]) -> str:
    lines = [f"{message.role.capitalize()}: {message.content}\n\n" for message in messages]
    return "".join([*lines, "Assistant:"])


def _brief(error: Exception) -> str:
    """An error's own words in one short line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words if len(words) <= 160 else words[:157] + "..."

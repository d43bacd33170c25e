"""The jinja2 environment in which a model's chat template runs: Hugging Face's dialect, with limits.

A template is code out of a downloaded file. jinja2's immutable sandbox keeps it from Python's insides and
from changing what it is given. Limits on top of that: it stops after a few seconds (every turn of a loop and
every macro, block, filter and test looks at the clock), loops over at most 100,000 numbers, writes at most some
multiple of the conversation, and no operator, filter, call or `set` may leave a value larger than that.

Not covered: a single step whose cost is the product of two allowed sizes (`replace`, `join`, `sum` of lists, a
format); it is found out only afterwards. A template that means harm can so still cost the process it runs in;
that is the worker, which holds nothing that cannot be loaded again.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.environment import Environment, Template
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

SECONDS = 5.0
_MAX_WIDTH = 100_000
_MAX_BITS = 4096
_WIDE_FORMAT = re.compile(r"\d{6}|%[-+ #0-9.]*\*|\{[^{}]*:[^{}]*\{")
_WIDTH_FILTERS = frozenset({"batch", "center", "indent", "slice", "tojson", "truncate", "wordwrap"})


class Refused(TemplateError):
    """The template called raise_exception: it does not take this conversation."""


class LimitReached(SecurityError):
    """The template wanted more time or room than a template needs."""


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates and renders them one at a time, within limits."""

    intercepted_binops = frozenset(("*", "**", "%", "+"))

    def __init__(self, seconds: float = SECONDS) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _Generation])
        self._seconds, self._deadline = seconds, time.monotonic() + seconds
        self._max_size = 1_000_000
        self.filters.update(tojson=_tojson, sized=self.sized)
        self.filters = {name: self._limited(name, function) for name, function in self.filters.items()}
        self.globals.pop("lipsum")
        self.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)

    def compile_limited(self, source: str) -> Template:
        """The template with its limits built in; raises what jinja2 and Python's compiler raise."""
        tree = _Limits().visit(self.parse(source))
        assert isinstance(tree, nodes.Template)
        return self.from_string(tree)

    def render(self, template: Template, values: Mapping[str, Any], max_size: int) -> str:
        """The text a template makes of values; raises what it raises, LimitReached beyond the limits."""
        self._deadline, self._max_size = time.monotonic() + self._seconds, max_size
        chunks: list[str] = []
        size = 0
        for chunk in template.generate(values):
            self.tick()
            size += len(chunk)
            self._check_size(size)
            chunks.append(chunk)
        return "".join(chunks)

    def tick(self) -> bool:
        """True, or LimitReached when the time is up."""
        if time.monotonic() > self._deadline:
            raise LimitReached(f"it runs for more than {self._seconds:g} seconds")
        return True

    def sized(self, value: Any) -> Any:
        """The value, or LimitReached where it is larger than this conversation warrants."""
        if isinstance(value, (str, bytes, list, tuple, dict)):
            self._check_size(len(value))
        return value

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            self._check_size(_product_size(left, right))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * right > _MAX_BITS:
                raise LimitReached("it computes with numbers of thousands of digits")
        elif operator == "%" and isinstance(left, str):
            _check_format(left)
        return self.sized(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        _check_widths(args, kwargs)
        return self.sized(super().call(context, obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_format(str(value.__self__))
        return wrapped

    def call_test(self, *args: Any, **kwargs: Any) -> Any:
        self.tick()
        return super().call_test(*args, **kwargs)

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that looks at what it is asked for and at what it makes."""

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            if name in _WIDTH_FILTERS:
                _check_widths(args, kwargs)
            elif name == "format":
                _check_format(str(args[0]))
            return self.sized(function(*args, **kwargs))

        return limited

    def _check_size(self, size: int) -> None:
        if size > self._max_size:
            raise LimitReached(f"it makes more than {self._max_size:,} characters of this conversation")


class _Limits(NodeTransformer):
    """Looks at the clock wherever a template can repeat itself, and at the size of what it joins or keeps."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.test is not None:
            node.test = nodes.And(_environment_call("tick"), node.test)
        return self._ticking(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._ticking(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return self._ticking(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        return _environment_call("sized", self.generic_visit(node))

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        node.filter = nodes.Filter(node.filter, "sized", [], [], None, None)
        return self.generic_visit(node)

    def _ticking(self, node: nodes.For | nodes.Macro | nodes.Block) -> nodes.Node:
        node.body.insert(0, nodes.ExprStmt(_environment_call("tick")))
        return self.generic_visit(node)


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks what a model wrote, for training; here only its body."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment_call(method: str, *args: nodes.Node) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), list(args), [], None, None)


def _product_size(left: Any, right: Any) -> int:
    """Length of a repetition, or bits of a product of integers; 0 for what cannot grow."""
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length()
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int):
            return len(sequence) * max(times, 0)
    return 0


def _check_widths(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int) and value > _MAX_WIDTH:
            raise LimitReached(f"it asks for a width or count above {_MAX_WIDTH:,}")


def _check_format(pattern: str) -> None:
    if _WIDE_FORMAT.search(pattern):
        raise LimitReached("it asks for a format of unlimited width")


def _raise_exception(message: object) -> NoReturn:
    raise Refused(str(message))


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Hugging Face's: plain JSON, without jinja2's HTML escapes and with non-ASCII letters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

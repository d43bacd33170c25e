"""Flags shared by the verbs that answer; each is also read from EDGESPEC_* in the environment."""

from __future__ import annotations

import functools
import inspect
import secrets
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from edgespec.errors import BadSetting
from edgespec.memory import sizes
from edgespec.settings import Settings
from edgespec.types import Sampling

_METHOD = (
    "where drafts come from: auto, plain, model, parallel; with no drafter suffix, recycle, lookup, lookahead; mix"
)
_MODEL, _ANSWER = "Model and speculation", "Answer"


def _env(name: str) -> str:
    return f"EDGESPEC_{name}"


def _load(flags: tuple[str, ...], name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*flags, envvar=_env(name), help=text, rich_help_panel=_MODEL)
    return option


def _answer(flags: tuple[str, ...], name: str, text: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(*flags, envvar=_env(name), help=text, rich_help_panel=_ANSWER)
    return option


Model = Annotated[str | None, _load(("-m", "--model"), "MODEL", "a name, or the path of a .gguf file (default: demo)")]
Draft = Annotated[str | None, _load(("-d", "--draft"), "DRAFT", "the drafter: a name, a path, or none")]
Method = Annotated[str, _load(("--method",), "METHOD", _METHOD)]
Shape = Annotated[str, _load(("--shape",), "SHAPE", "auto, chain or tree")]
Nodes = Annotated[int | None, _load(("--nodes",), "NODES", "rows of a target pass, the pending token included")]
Depth = Annotated[int | None, _load(("--depth",), "DEPTH", "most drafted tokens in a row")]
Context = Annotated[int | None, _load(("--context",), "CONTEXT", "tokens of conversation to make room for")]
Kv = Annotated[
    str | None,
    _load(("--kv",), "KV", "f16, q8_0 or q4_0: type of the cache (default: f16; smaller ones change the text)"),
]
Exact = Annotated[bool, _load(("--exact",), "EXACT", "the very text of plain decoding, byte for byte")]
Threads = Annotated[int | None, _load(("--threads",), "THREADS", "processor threads (default: one a core)")]
Budget = Annotated[
    str | None, _load(("--budget",), "BUDGET", "memory to stay within, such as 6GiB or 800MB (default: what is free)")
]
Corpus = Annotated[
    str | None, _load(("--corpus",), "CORPUS", "a text file, or a folder of them, that drafts may be copied from")
]
Remember = Annotated[
    bool,
    _load(("--remember/--no-remember",), "REMEMBER", "keep texts of conversations on this machine, for later drafts"),
]
Verify = Annotated[
    str, _load(("--verify",), "VERIFY", "match or rejection: how sampled drafts are verified (both are lossless)")
]

System = Annotated[str | None, _answer(("-s", "--system"), "SYSTEM", "instructions in front of the conversation")]
MaxTokens = Annotated[int | None, _answer(("--max-tokens",), "MAX_TOKENS", "longest answer (default: what fits)")]
Temperature = Annotated[float, _answer(("--temperature",), "TEMPERATURE", "0 always takes the likeliest token")]
TopK = Annotated[int, _answer(("--top-k",), "TOP_K", "draw among so many likeliest tokens (0: all)")]
TopP = Annotated[float, _answer(("--top-p",), "TOP_P", "draw among the likeliest tokens of this total probability")]
MinP = Annotated[float, _answer(("--min-p",), "MIN_P", "draw among tokens at least so likely, relative to the best")]
RepeatPenalty = Annotated[float, _answer(("--repeat-penalty",), "REPEAT_PENALTY", "above 1 discourages recent tokens")]
Seed = Annotated[int | None, _answer(("--seed",), "SEED", "the same seed gives the same text (default: a new one)")]


_DEFAULT = Sampling()


@dataclass(frozen=True)
class Loading:
    """Flags of a model to load."""

    model: Model = None
    draft: Draft = None
    nodes: Nodes = None
    depth: Depth = None
    context: Context = None
    kv: Kv = None
    exact: Exact = False
    threads: Threads = None
    budget: Budget = None
    verify: Verify = "match"
    corpus: Corpus = None
    remember: Remember = True

    def settings(self, method: str = "auto", shape: str = "auto") -> Settings:
        """Raises BadSetting for values no model could meet, before anything is loaded."""
        given = {**vars(self), "budget": None if self.budget is None else sizes.parse(self.budget)}
        return Settings(method=method, shape=shape, **given)


@dataclass(frozen=True)
class Answering:
    """Flags of an answer."""

    system: System = None
    max_tokens: MaxTokens = None
    temperature: Temperature = _DEFAULT.temperature
    top_k: TopK = _DEFAULT.top_k
    top_p: TopP = _DEFAULT.top_p
    min_p: MinP = _DEFAULT.min_p
    repeat_penalty: RepeatPenalty = _DEFAULT.repeat_penalty
    seed: Seed = None

    def sampling(self) -> Sampling:
        """Raises BadSetting; without a seed a new one is drawn at every call."""
        if self.max_tokens is not None and self.max_tokens < 1:
            raise BadSetting(f"--max-tokens is {self.max_tokens} but must be at least 1")
        chosen = secrets.randbits(32) if self.seed is None else self.seed
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repeat_penalty, seed=chosen)


def flat(verb: Callable[..., int]) -> Callable[..., int]:
    """The verb as typer wants it: every parameter that is a group of flags (a dataclass) stands as its fields.

    A group's defaults are those of the parameter's default, else its own.
    """
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, tuple[type, list[str]]] = {}
    flags: list[inspect.Parameter] = []
    for parameter in inspect.signature(verb).parameters.values():
        group = hints[parameter.name]
        if not (isinstance(group, type) and is_dataclass(group)):
            flags.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=group))
            continue
        default = group() if parameter.default is inspect.Parameter.empty else parameter.default
        kinds = get_type_hints(group, include_extras=True)
        names = [field.name for field in fields(group)]
        groups[parameter.name] = (group, names)
        flags += [
            inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=getattr(default, n), annotation=kinds[n])
            for n in names
        ]

    @functools.wraps(verb)
    def called(**given: Any) -> int:
        made = {name: group(**{n: given.pop(n) for n in names}) for name, (group, names) in groups.items()}
        return verb(**made, **given)

    called.__signature__ = inspect.Signature(flags, return_annotation=int)  # type: ignore[attr-defined]
    return called

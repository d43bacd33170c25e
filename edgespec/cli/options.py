"""Flags shared by the verbs that answer; each is also read from EDGESPEC_* in the environment."""

from __future__ import annotations

import secrets
from typing import Annotated

import typer

from edgespec.errors import BadSetting
from edgespec.types import Sampling, Settings

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
Method = Annotated[str, _load(("--method",), "METHOD", "auto, plain or model: where drafts come from")]
Shape = Annotated[str, _load(("--shape",), "SHAPE", "auto, chain or tree")]
Nodes = Annotated[int | None, _load(("--nodes",), "NODES", "rows of a target pass, the pending token included")]
Depth = Annotated[int | None, _load(("--depth",), "DEPTH", "most drafted tokens in a row")]
Context = Annotated[int | None, _load(("--context",), "CONTEXT", "tokens of conversation to make room for")]
Kv = Annotated[str, _load(("--kv",), "KV", "f16, q8_0 or q4_0: type of the cache (smaller ones change the text)")]
Exact = Annotated[bool, _load(("--exact",), "EXACT", "the very text of plain decoding, byte for byte")]
Threads = Annotated[int | None, _load(("--threads",), "THREADS", "processor threads (default: one a core)")]

System = Annotated[str | None, _answer(("-s", "--system"), "SYSTEM", "instructions in front of the conversation")]
MaxTokens = Annotated[int | None, _answer(("--max-tokens",), "MAX_TOKENS", "longest answer (default: what fits)")]
Temperature = Annotated[float, _answer(("--temperature",), "TEMPERATURE", "0 always takes the likeliest token")]
TopK = Annotated[int, _answer(("--top-k",), "TOP_K", "draw among so many likeliest tokens (0: all)")]
TopP = Annotated[float, _answer(("--top-p",), "TOP_P", "draw among the likeliest tokens of this total probability")]
MinP = Annotated[float, _answer(("--min-p",), "MIN_P", "draw among tokens at least so likely, relative to the best")]
RepeatPenalty = Annotated[float, _answer(("--repeat-penalty",), "REPEAT_PENALTY", "above 1 discourages recent tokens")]
Seed = Annotated[int | None, _answer(("--seed",), "SEED", "the same seed gives the same text (default: a new one)")]


def settings(
    model: str | None,
    draft: str | None,
    method: str,
    shape: str,
    nodes: int | None,
    depth: int | None,
    context: int | None,
    kv: str,
    exact: bool,
    threads: int | None,
) -> Settings:
    """Raises BadSetting for values no model could meet, before anything is loaded."""
    return Settings(model, draft, method, shape, nodes, depth, context, kv, exact, threads)


def sampling(
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repeat_penalty: float,
    seed: int | None,
    max_tokens: int | None,
) -> Sampling:
    """Raises BadSetting; without a seed a new one is drawn."""
    if max_tokens is not None and max_tokens < 1:
        raise BadSetting(f"--max-tokens is {max_tokens} but must be at least 1")
    chosen = secrets.randbits(32) if seed is None else seed
    return Sampling(temperature, top_k, top_p, min_p, repeat_penalty, seed=chosen)

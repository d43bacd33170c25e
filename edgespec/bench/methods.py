"""What `--methods` names: plain, auto, or NAME[:SHAPE][@ROWS]; a shape (chain, tree) alone means the draft model's."""

from __future__ import annotations

import difflib
from dataclasses import replace

from edgespec.errors import BadSetting
from edgespec.settings import METHODS, SHAPES, Settings

DEFAULT = "plain,chain,tree"
_ALONE = {shape: ("model", shape) for shape in SHAPES if shape != "auto"}
_UNSHAPED = ("plain", "auto")


def parse_methods(text: str, base: Settings) -> dict[str, Settings]:
    """Settings of each method by the name it was given, plain first: it is what the others are compared with.

    Raises BadSetting with the nearest name where one is unknown.
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names:
        raise BadSetting(f"--methods names none; use for example {DEFAULT}")
    if twice := next((n for n in names if names.count(n) > 1), None):
        raise BadSetting(f"--methods names {twice} twice; name it once")
    return {name: _method(name, base) for name in ["plain", *(n for n in names if n != "plain")]}


def _method(name: str, base: Settings) -> Settings:
    stem, at, rows = name.partition("@")
    source, colon, shape = stem.partition(":")
    if source in _ALONE and colon:
        raise BadSetting(f"{name} names a shape twice or rows by a colon; write {source}, or {source}@8 for 8 rows")
    if stem in _ALONE:
        source, shape = _ALONE[stem]
    elif source not in METHODS:
        raise BadSetting(_unknown(source))
    elif colon and shape not in _ALONE:
        raise BadSetting(f"the shape of {name} is {shape or 'nothing'} but must be one of {', '.join(_ALONE)}")
    if source in _UNSHAPED and (colon or at):
        raise BadSetting(f"{source} takes neither a shape nor rows, so {name} means nothing; write {source}")
    if at and not (rows.isascii() and rows.isdecimal()):
        raise BadSetting(f"{name} asks for {rows or 'no'} rows; write a number, such as {stem}@8")
    if source == "plain":
        return replace(base, method="plain", draft=None, shape="auto")
    return replace(base, method=source, shape=shape or "auto", nodes=int(rows) if rows else base.nodes)


def _unknown(name: str) -> str:
    known = [*dict.fromkeys((*METHODS, *_ALONE))]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"the known ones are {', '.join(known)}"
    return f"no method has the name {name!r}; {hint}"

"""Model names: what `-m NAME` and `-d NAME` stand for.

The names are data (models.toml beside the package, or at the repository's root in an editable install).
Not covered: whether the file is a usable model (gguf.inspect says), downloads.
"""

from __future__ import annotations

import difflib
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgespec.errors import ModelNotFound

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Entry:
    """A model that was asked for.

    drafts   names of models that can draft for it, best first; () where none is known
    note     what the user should know before believing it, or an empty string
    licence  as models.toml says, or an empty string
    mask_token_id  the mask that the model was taught to fill in (drafters/parallel.py); None: its file says, if any
    """

    name: str
    path: Path
    drafts: tuple[str, ...] = ()
    note: str = ""
    licence: str = ""
    mask_token_id: int | None = None


def names() -> tuple[str, ...]:
    """Every name of models.toml, in its order."""
    return tuple(_entries())


def resolve(name_or_path: str) -> Entry:
    """The model a name or path stands for; raises ModelNotFound with the nearest names.

    A path is what contains a separator or ends in .gguf; names are compared without case.
    """
    asked = name_or_path.strip()
    if asked.endswith(".gguf") or "/" in asked or os.sep in asked:
        return _from_path(asked)
    entry = _entries().get(asked.lower())
    if entry is None:
        raise ModelNotFound(_unknown(asked))
    if not entry.path.is_file():
        raise ModelNotFound(f"the bundled file of {entry.name} is missing ({entry.path}); install edgespec again")
    return entry


@cache
def _entries() -> dict[str, Entry]:
    with open(_table(), "rb") as file:
        table = tomllib.load(file)
    return {
        name: Entry(
            name=name,
            path=_PACKAGE / row["file"],
            drafts=tuple(row.get("drafts", ())),
            note=row.get("note", ""),
            licence=row.get("licence", ""),
            mask_token_id=row.get("mask_token_id"),
        )
        for name, row in table.items()
    }


def _table() -> Path:
    """models.toml inside the package (as the wheel has it), else at the root of the repository."""
    for folder in (_PACKAGE, _PACKAGE.parent):
        if (folder / "models.toml").is_file():
            return folder / "models.toml"
    raise ModelNotFound(f"models.toml is missing from {_PACKAGE}; install edgespec again")


def _from_path(asked: str) -> Entry:
    path = Path(os.path.expanduser(asked))
    if not os.path.lexists(path):
        raise ModelNotFound(f"there is no file {path}; check the path, or name one of: {', '.join(names())}")
    return Entry(name=path.stem, path=path)


def _unknown(asked: str) -> str:
    known = names()
    if not asked:
        return f"no model is named; name a .gguf file or one of: {', '.join(known)}"
    if os.path.lexists(asked):
        return f"no model has the name {asked!r}; to use the file of that name, write ./{asked}"
    near = difflib.get_close_matches(asked.lower(), known, n=3, cutoff=0.5)
    if near:
        return f"no model has the name {asked!r}; did you mean {' or '.join(near)}?"
    return (
        f"no model has the name {asked!r}; the known names are {', '.join(known)}, "
        "and a file is named by its path, such as ./model.gguf"
    )

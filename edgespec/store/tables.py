"""Named arrays that answering filled, one file each in the data folder: what was said before, for drafts.

A file is one line (kind, version, SHA-256 of the rest), one line of JSON (key, and of each array its name, type and
shape), then the arrays' bytes, little-endian, one after the other. One that cannot be understood is moved aside, never
fatal. What the arrays mean is their owner's affair (speculation/drafters/columns.py). Not covered: two processes that
learn at once (the last one to save wins), removing files of models that are gone, or what a killed
process left half written.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.store import paths
from edgespec.store.files import write_parts

# Raised when arrays of older versions mean something else now: they are learnt again.
VERSION = 1
# Several times what the largest table takes; a file beyond is not one of ours, and reading it could end the process.
MOST_BYTES = 1 << 28
TYPES = ("<i4", "<i8", "<f4", "<f8", "|u1")
_KIND = b"edgespec-table"
# What a header with a right checksum and wrong content, written by hand, leads to.
_DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Found:
    """What a file held.

    arrays   read-only views of what was read, or None: nothing kept, another version's, or damaged
    warning  one line for the user, where a file was there and could not be used
    """

    arrays: Arrays | None
    warning: str | None = None


def load(key: str, most_bytes: int = MOST_BYTES) -> Found:
    """What was saved under the key.

    A damaged file, or one larger than most_bytes, is renamed to end in .damaged; one of another version stays until the
    next save.
    """
    path = _path(key)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Found(None, _aside(path, "it is no file"))
        if status.st_size > most_bytes:
            return Found(None, _aside(path, f"it has {status.st_size} bytes and {most_bytes} is the most"))
        with open(path, "rb") as file:
            content = file.read(status.st_size)
    except FileNotFoundError:
        return Found(None)
    except OSError as error:
        why = error.strerror or error
        return Found(None, f"what was said before is left out: {why} ({path}); make the file readable")
    try:
        return Found(_parsed(content, key))
    except _DAMAGE:
        return Found(None, _aside(path, "it is damaged"))


def save(key: str, arrays: Arrays) -> str | None:
    """Keep arrays under the key, written whole or not at all; a warning for the user where that failed, else None.

    Raises ValueError for a type outside TYPES.
    """
    little = {name: np.ascontiguousarray(a, a.dtype.newbyteorder("<")) for name, a in arrays.items()}
    kinds = {name: (a.dtype.str, a.shape) for name, a in little.items()}
    for name, (kind, _) in kinds.items():
        if kind not in TYPES:
            raise ValueError(f"{name} is {kind}; tables keep {', '.join(TYPES)}")
    header = json.dumps({"key": key, "arrays": kinds}).encode() + b"\n"
    parts = [a.reshape(-1).view(np.uint8).data for a in little.values()]
    digest = hashlib.sha256(header)
    for part in parts:
        digest.update(part)
    path = _path(key)
    try:
        write_parts(path, [b"%s %d %s\n" % (_KIND, VERSION, digest.hexdigest().encode()), header, *parts])
    except OSError as error:
        return (
            f"what was said was not kept for later drafts: {error.strerror or error} ({path.parent}); "
            "name another folder with EDGESPEC_DATA_DIR"
        )
    return None


def discard(key: str, why: str) -> str:
    """Move aside a file whose arrays their owner could not use; the warning for the user."""
    return _aside(_path(key), why)


def _parsed(content: bytes, key: str) -> Arrays | None:
    """The arrays; None for another version. Raises one of _DAMAGE for what cannot be understood."""
    line, _, rest = content.partition(b"\n")
    kind, version, digest = line.split(b" ")
    if kind != _KIND:
        raise ValueError("another kind of file")
    if int(version) != VERSION:
        return None
    if hashlib.sha256(rest).hexdigest().encode() != digest:
        raise ValueError("the checksum differs")
    header, _, _ = rest.partition(b"\n")
    described = json.loads(header)
    if described["key"] != key:
        raise ValueError("another key's file")
    start, found = len(line) + len(header) + 2, {}
    for name, (type_name, shape) in described["arrays"].items():
        if type_name not in TYPES or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise ValueError("an array of no known type or shape")
        found[name] = np.frombuffer(content, type_name, math.prod(shape), start).reshape(shape)
        start += found[name].nbytes
    if start != len(content):
        raise ValueError("bytes that belong to no array")
    return found


def _aside(path: Path, why: str) -> str:
    aside = path.with_suffix(".damaged")
    try:
        os.replace(path, aside)
    except OSError as error:  # it is found damaged again
        return f"what was said before is left out: {path} cannot be used: {why}; remove it ({error.strerror or error})"
    return f"what was said before is left out and begins anew: {path.name} cannot be used: {why}; it is now {aside}"


def _path(key: str) -> Path:
    return paths.data_dir() / f"table-{key}.bin"

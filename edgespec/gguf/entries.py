"""Metadata entries as bytes: long arrays that a header only counts are read whole, and new entries are written.

Source: docs/gguf.md of ggml, version 3. Not covered: finding entries (header.py), the tensor table (trim.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from gguf.constants import GGUFValueType as Kind
from numpy.typing import NDArray

from edgespec.errors import ModelUnusable
from edgespec.gguf.header import Header

_U32, _U64, _F32 = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<f")
_DTYPES = {Kind.INT32: "<i4", Kind.UINT32: "<u4", Kind.FLOAT32: "<f4", Kind.INT64: "<i8", Kind.UINT64: "<u8"}


def raw(path: Path, header: Header, key: str) -> bytes:
    """The entry as it stands in the file, key included; raises KeyError for one that is not there."""
    start, end = header.entries[key]
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(end - start)


def numbers(path: Path, header: Header, key: str) -> NDArray[np.number]:
    """All elements of an array of numbers; raises KeyError, and ModelUnusable where it holds something else."""
    kind, count, rest = _array(raw(path, header, key))
    if kind not in _DTYPES:
        raise _other(path, key, "numbers")
    return np.frombuffer(rest, _DTYPES[Kind(kind)], count)


def strings(path: Path, header: Header, key: str) -> list[bytes]:
    """All elements of an array of strings, as the file has them; raises what `numbers` raises."""
    kind, count, rest = _array(raw(path, header, key))
    if kind != Kind.STRING:
        raise _other(path, key, "strings")
    found, at = [], 0
    for _ in range(count):
        end = at + 8 + _U64.unpack_from(rest, at)[0]
        found.append(rest[at + 8 : end])
        at = end
    return found


def _array(entry: bytes) -> tuple[int, int, bytes]:
    """Element type, number of elements, their bytes; type -1 of what is no array."""
    at = 8 + int(_U64.unpack_from(entry)[0])
    if _U32.unpack_from(entry, at)[0] != Kind.ARRAY:
        return -1, 0, b""
    return int(_U32.unpack_from(entry, at + 4)[0]), int(_U64.unpack_from(entry, at + 8)[0]), entry[at + 16 :]


def _other(path: Path, key: str, wanted: str) -> ModelUnusable:
    return ModelUnusable(f"{path} is damaged: its {key} holds no {wanted}; download it again")


def text(value: str) -> bytes:
    """Length and bytes, as keys, strings and names of tensors are written."""
    coded = value.encode()
    return _U64.pack(len(coded)) + coded


def string_entry(key: str, value: str) -> bytes:
    return text(key) + _U32.pack(Kind.STRING) + text(value)


def count_entry(key: str, value: int, kind: Kind = Kind.UINT32) -> bytes:
    """A number of 0 or more, as UINT32 or UINT64."""
    return text(key) + _U32.pack(kind) + (_U64 if kind == Kind.UINT64 else _U32).pack(value)


def float_entry(key: str, value: float) -> bytes:
    return text(key) + _U32.pack(Kind.FLOAT32) + _F32.pack(value)


def ids_entry(key: str, ids: Sequence[int] | NDArray[np.integer]) -> bytes:
    """An array of INT32."""
    array = np.asarray(ids, "<i4")
    return text(key) + _U32.pack(Kind.ARRAY) + _U32.pack(Kind.INT32) + _U64.pack(len(array)) + array.tobytes()

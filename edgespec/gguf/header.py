"""A GGUF file's header: scalar metadata, array lengths and the tensor table, in tens of milliseconds.

The `gguf` package's reader makes several Python objects of every array element (0.35 s for a vocabulary of
8k tokens, 9.4 s for 152k, against 4 and 41 ms here), trusts every count in the file and maps it, so that a
file cut while it is read kills the process. This walk steps over arrays, bounds every count before it loops
and reads through a window of a megabyte. The package's tables of value and weight types are used; tests hold
this walk against its reader.

Not covered: array contents, tensor data, writing, big-endian files.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGUF_VERSION,
    GGMLQuantizationType,
    GGUFValueType,
)

from edgespec.errors import ModelNotFound, ModelUnusable
from edgespec.gguf.magic import MAGIC, check_regular, describe, missing

Number = int | float | bool
Value = str | Number

# Far beyond any real file (262k tokens with merges: 0.8 M strings, 20 MiB), and quick to walk.
MAX_HEADER_BYTES = 256 << 20
MAX_KEPT_STRING_BYTES = 1 << 20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_ARRAY_STRINGS = 1 << 22
MAX_KEPT_NUMBERS = 1 << 10
MAX_DIMS = 4
_WINDOW_BYTES = 1 << 20
# What fits into a C++ string object itself (libstdc++): longer ones take a block of their own in a runtime.
SHORT_STRING_BYTES = 15

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_SCALARS: dict[int, struct.Struct] = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: _U32,
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.BOOL: struct.Struct("<?"),
    GGUFValueType.UINT64: _U64,
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
}


@dataclass(frozen=True)
class Tensor:
    """One row of the tensor table; shape as GGUF has it (row length first), offset from Header.data_start."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """What stands before the tensor data.

    metadata      scalars and strings by key; strings beyond MAX_KEPT_STRING_BYTES are left out
    arrays        elements of short arrays of numbers, by key (one value a layer, mostly)
    lengths       number of elements of each array, by key
    long_strings  how many of a string array's elements have more than SHORT_STRING_BYTES, and their bytes, by key
    entries       where each entry lies in the file, by key: offsets of its first byte and of the byte behind its last
    needed_bytes  size the tensor table asks the file to have; file_bytes is what it has
    """

    version: int
    metadata: Mapping[str, Value]
    arrays: Mapping[str, tuple[Number, ...]]
    lengths: Mapping[str, int]
    long_strings: Mapping[str, tuple[int, int]]
    entries: Mapping[str, tuple[int, int]]
    tensors: tuple[Tensor, ...]
    data_start: int
    needed_bytes: int
    file_bytes: int


def read_header(path: Path) -> Header:
    """The header of a GGUF file of version 2 or 3, in bounded time and memory whatever the bytes are.

    Raises ModelNotFound (no such file, a directory, not readable) and ModelUnusable (not a GGUF, another
    version or byte order, damaged, cut short inside the header). Whether the tensor data is all there is the
    caller's to judge.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return _Walk(file, path).header()
    except FileNotFoundError:
        raise ModelNotFound(missing(path)) from None
    except PermissionError:
        raise ModelNotFound(f"{path} may not be read by this user; change its permissions or copy it") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelNotFound(f"{path} could not be read ({reason}); check the path and the disk") from None


class _Walk:
    """One pass over a header; `_pos` is the file offset of the next byte."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self._size = os.fstat(file.fileno()).st_size
        self._window, self._base, self._pos = b"", 0, 0
        self._n_strings = 0
        self._metadata: dict[str, Value] = {}
        self._arrays: dict[str, tuple[Number, ...]] = {}
        self._lengths: dict[str, int] = {}
        self._long_strings: dict[str, tuple[int, int]] = {}
        self._entries: dict[str, tuple[int, int]] = {}

    def header(self) -> Header:
        version = self._check_magic()
        n_tensors, n_keys = self._number(_U64), self._number(_U64)
        self._bound("metadata entries", n_keys, MAX_KEYS)
        self._bound("tensors", n_tensors, MAX_TENSORS)
        for _ in range(n_keys):
            self._entry()
        alignment = self._metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise self._damaged(f"an alignment of {alignment}")
        tensors, end = self._tensors(n_tensors, alignment)
        start = _padded(self._pos, alignment)
        needed = start + end if tensors else self._pos
        return Header(
            version,
            self._metadata,
            self._arrays,
            self._lengths,
            self._long_strings,
            self._entries,
            tensors,
            start,
            needed,
            self._size,
        )

    def _check_magic(self) -> int:
        head = self._file.read(512)
        if head[:4] != MAGIC:
            raise ModelUnusable(f"{self._path} {describe(head)}")
        self._pos = 4
        version = self._number(_U32)
        if version and version & 0xFFFF == 0:
            raise ModelUnusable(f"{self._path} is a GGUF for big-endian machines; get the model's little-endian file")
        if version not in (2, GGUF_VERSION):
            todo = "update edgespec or get another file" if version > GGUF_VERSION else "get a newer file"
            raise ModelUnusable(
                f"{self._path} is GGUF version {version}, and only 2 and {GGUF_VERSION} can be read; "
                f"{todo} of the model"
            )
        return version

    def _entry(self) -> None:
        start = self._pos
        key = self._string(MAX_KEYS) or ""
        if key in self._metadata or key in self._lengths:
            raise self._damaged(f"metadata entry {key[:80]!r} twice")
        kind = self._number(_U32)
        if kind == GGUFValueType.STRING:
            text = self._string(MAX_HEADER_BYTES, keep=MAX_KEPT_STRING_BYTES)
            if text is not None:
                self._metadata[key] = text
        elif kind == GGUFValueType.ARRAY:
            self._array(key)
        elif kind in _SCALARS:
            self._metadata[key] = self._scalar(_SCALARS[kind])
        else:
            raise self._damaged(f"value type {kind} of metadata entry {key[:80]!r}")
        self._entries[key] = (start, self._pos)

    def _tensors(self, count: int, alignment: int) -> tuple[tuple[Tensor, ...], int]:
        """The table and the end of its last tensor, counted from the start of the data."""
        tensors: list[Tensor] = []
        names: set[str] = set()
        expected = end = 0
        for _ in range(count):
            tensor = self._tensor()
            if tensor.name in names:
                raise self._damaged(f"tensor {tensor.name[:80]!r} twice")
            if tensor.offset != expected:
                raise self._damaged(f"tensor {tensor.name[:80]!r} at {tensor.offset}, expected at {expected}")
            names.add(tensor.name)
            tensors.append(tensor)
            end = expected + tensor.n_bytes
            expected = _padded(end, alignment)
        return tuple(tensors), end

    def _tensor(self) -> Tensor:
        name = self._string(MAX_KEYS) or ""
        n_dims = self._number(_U32)
        self._bound(f"dimensions of tensor {name[:80]!r}", n_dims, MAX_DIMS)
        shape = tuple(self._number(_U64) for _ in range(n_dims))
        raw_type, offset = self._number(_U32), self._number(_U64)
        try:
            weight_type = GGMLQuantizationType(raw_type)
            block, block_bytes = GGML_QUANT_SIZES[weight_type]
        except (ValueError, KeyError):
            raise ModelUnusable(
                f"{self._path} has weights of type {raw_type}, which is unknown here; "
                "get the model in another quantisation, such as Q4_K_M or Q8_0"
            ) from None
        n_elements = math.prod(shape)
        if n_elements >= 1 << 63 or (shape and shape[0] % block):
            raise self._damaged(f"shape {list(shape)} of tensor {name[:80]!r}")
        return Tensor(name, shape, weight_type, offset, n_elements // block * block_bytes)

    def _array(self, key: str) -> None:
        """Note an array's length, and its elements where they are few numbers."""
        kind, count = self._number(_U32), self._number(_U64)
        if kind in _SCALARS and count <= MAX_KEPT_NUMBERS:
            self._arrays[key] = tuple(self._scalar(_SCALARS[kind]) for _ in range(count))
        elif kind in _SCALARS:
            self._skip(count * _SCALARS[kind].size)
        elif kind == GGUFValueType.STRING:
            self._n_strings += count
            self._bound("strings in arrays", self._n_strings, MAX_ARRAY_STRINGS)
            self._long_strings[key] = self._skip_strings(count)
        else:
            raise self._damaged(f"array elements of type {kind}")
        self._lengths[key] = count

    def _skip_strings(self, count: int) -> tuple[int, int]:
        """Step over strings and add up the long ones (number, bytes); the one loop that runs hundreds of thousands of
        times for a real file."""
        length_at = _U64.unpack_from
        n_long = long_bytes = 0
        window, at = self._window, self._pos - self._base
        last = len(window) - 8
        for _ in range(count):
            if at > last:
                self._pos = self._base + at
                self._fill(8)
                window, at = self._window, 0
                last = len(window) - 8
            length = length_at(window, at)[0]
            if length > SHORT_STRING_BYTES:
                n_long += 1
                long_bytes += length
            at += 8 + length
        self._pos = self._base + at
        return n_long, long_bytes

    def _string(self, limit: int, keep: int = MAX_KEPT_STRING_BYTES) -> str | None:
        """A string, with U+FFFD for bytes that are not UTF-8; None where it is longer than `keep`."""
        length = self._number(_U64)
        self._bound("bytes of a string", length, limit)
        if length > keep:
            self._skip(length)
            return None
        self._fill(length)
        at = self._pos - self._base
        self._pos += length
        return self._window[at : at + length].decode("utf-8", errors="replace")

    def _scalar(self, kind: struct.Struct) -> int | float | bool:
        self._fill(kind.size)
        value: int | float | bool = kind.unpack_from(self._window, self._pos - self._base)[0]
        self._pos += kind.size
        return value

    def _number(self, kind: struct.Struct) -> int:
        return int(self._scalar(kind))

    def _skip(self, n_bytes: int) -> None:
        self._check_room(n_bytes)
        self._pos += n_bytes

    def _fill(self, n_bytes: int) -> None:
        """Make the window hold the next n_bytes."""
        if self._pos + n_bytes <= self._base + len(self._window):
            return
        self._check_room(n_bytes)
        self._file.seek(self._pos)
        self._base, self._window = self._pos, self._file.read(max(n_bytes, _WINDOW_BYTES))
        if len(self._window) < n_bytes:
            self._size = self._base + len(self._window)
            self._check_room(n_bytes)

    def _check_room(self, n_bytes: int) -> None:
        if self._pos + n_bytes > self._size:
            raise ModelUnusable(
                f"{self._path} is cut short or damaged: its header needs at least {self._pos + n_bytes:,} "
                f"bytes and {self._size:,} are there; download it again"
            )
        if self._pos + n_bytes > MAX_HEADER_BYTES:
            raise self._damaged(f"a header of more than {MAX_HEADER_BYTES >> 20} MiB")

    def _bound(self, what: str, count: int, most: int) -> None:
        if count > most:
            raise self._damaged(f"{count:,} {what}")

    def _damaged(self, what: str) -> ModelUnusable:
        return ModelUnusable(f"{self._path} is damaged (it claims {what}); download it again")


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment

"""Weights in huge pages: a lone row of repacked 4-bit weights was read a third faster (benchmarks/LOG.md).

What the runtime mallocs for repacked weights comes in pages of 4 KiB, and reading half a gigabyte through them waits
for page tables. Linux (6.1 and newer) can make huge pages of them afterwards. Mapped files stay as they are.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

# Smaller buffers are not worth it, and huge pages of a half-used one would fill memory that nobody asked for.
MIN_BYTES = 16 << 20
_MADV_COLLAPSE = 25
_MAPS = Path("/proc/self/maps")

Region = tuple[int, int]


def anonymous_regions() -> frozenset[Region]:
    """(start, end) of every private writable mapping without a file, of MIN_BYTES or more; empty where unknown."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return frozenset()
    found = []
    for line in lines:
        place, rights, _offset, _device, inode, *name = line.split(maxsplit=5)
        start, end = (int(x, 16) for x in place.split("-"))
        if rights.startswith("rw-p") and inode == "0" and not name and end - start >= MIN_BYTES:
            found.append((start, end))
    return frozenset(found)


def collapse_new(before: frozenset[Region]) -> int:
    """Make huge pages of what was mapped since `before`; the bytes that were, 0 where the system does not do that."""
    if sys.platform != "linux":
        return 0
    n_bytes = 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in anonymous_regions() - before:
        if madvise(start, end - start, _MADV_COLLAPSE) == 0:
            n_bytes += end - start
    return n_bytes

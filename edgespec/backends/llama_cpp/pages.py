"""Weights in huge pages: scattered over pages of 4 KiB, repacked 4-bit weights cost a lone row up to a third more time
(benchmarks/LOG.md).

Linux gives a large malloc huge pages only where it is told to, and can move what was written into some afterwards (6.1
and newer). Mapped files stay as they are. Not covered: buffers of a context, where huge pages changed nothing.
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
    """Move what was mapped and written since `before` into huge pages; the bytes moved, 0 where the system cannot."""
    if sys.platform != "linux":
        return 0
    n_bytes = 0
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for start, end in anonymous_regions() - before:
        if madvise(start, end - start, _MADV_COLLAPSE) == 0:
            n_bytes += end - start
    return n_bytes

"""Pages: rearranged weights into huge ones, a file's own given back where a copy took their place, freed ones too.

Scattered over pages of 4 KiB, repacked 4-bit weights cost a lone row up to a third more time (benchmarks/LOG.md); and a
file that was mapped and copied counts twice until its pages are dropped.

Linux gives a large malloc huge pages only where it is told to, and can move what was written into some afterwards (6.1
and newer). Mapped files stay as they are. Not covered: buffers of a context, where huge pages changed nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

# Smaller buffers are not worth it, and huge pages of a half-used one would fill memory that nobody asked for.
MIN_BYTES = 16 << 20
_MADV_DONTNEED, _MADV_COLLAPSE = 4, 25
_MAPS = Path("/proc/self/maps")

Region = tuple[int, int]


def anonymous_regions() -> frozenset[Region]:
    """(start, end) of every private writable mapping without a file, of MIN_BYTES or more; empty where unknown."""
    return frozenset(
        (start, end)
        for start, end, rights, name in _mappings()
        if rights.startswith("rw-p") and not name and end - start >= MIN_BYTES
    )


def collapse_new(before: frozenset[Region]) -> int:
    """Move what was mapped and written since `before` into huge pages; the bytes moved, 0 where the system cannot."""
    if sys.platform != "linux":
        return 0
    return _advise(anonymous_regions() - before, _MADV_COLLAPSE)


def drop_file(path: Path) -> int:
    """Give back the pages of a mapped file, of which whatever is read again comes from the page cache; the bytes of
    its mappings, 0 where the system cannot."""
    if sys.platform != "linux":
        return 0
    real = os.path.realpath(path)
    return _advise({(start, end) for start, end, _, name in _mappings() if name == real}, _MADV_DONTNEED)


def trim() -> None:
    """Give back what was freed. Once blocks of some MiB were freed glibc takes the next ones from its heap, where they
    stay: exchanging a context for a smaller one freed nothing that others could have. Elsewhere nothing is done."""
    if sys.platform == "linux" and (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        malloc_trim(0)


def _advise(regions: Iterable[Region], advice: int) -> int:
    """Bytes of the regions for which the system took the advice."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return sum(end - start for start, end in regions if madvise(start, end - start, advice) == 0)


def _mappings() -> Iterator[tuple[int, int, str, str]]:
    """Start, end, rights and file of every mapping; file "" for none; nothing where unknown."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        place, rights, _offset, _device, _inode, *name = line.split(maxsplit=5)
        start, end = (int(x, 16) for x in place.split("-"))
        yield start, end, rights, name[0] if name else ""

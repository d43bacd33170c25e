"""Writing a file whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Put text where the path says, making folders; a reader sees the old file or the new one, never a part.

    Raises OSError, and then the old file stands and nothing else is left behind.
    """
    write_parts(path, [text.encode()])


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """The same for bytes, one part after the other, so that a large file is never held as one more copy."""
    written = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f"{path.stem}-", delete=False) as file:
            written = file.name
            for part in parts:
                file.write(part)
        os.replace(written, path)
    except OSError:
        if written is not None:
            with contextlib.suppress(OSError):
                os.unlink(written)
        raise

"""Figures measured about a model on this machine, one JSON file each in the cache folder: losing one costs seconds.

Values are plain dicts; what they mean is their owner's affair (speculation/cost.py). A file that cannot be read, is
damaged, or was written under another key counts as absent; a folder that cannot be written costs only time.
Not covered: removing old files, which are some hundred bytes each.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgespec.store import paths
from edgespec.store.files import write_whole

# Raised when figures of older versions are no longer comparable: they are measured again.
VERSION = 1
_HEAD_BYTES = 1 << 20


def key(model: Path, *, runtime: str, machine: str, kv_type: str, n_threads: int, options: str = "") -> str:
    """What a figure holds for, as a short name.

    runtime  names the build (backends.llama_cpp.runtime.build_id, which names the processor and its cores too)
    machine  what the build does not name: the graphics card and how many layers it holds, or an empty string
    options  how weights and context were opened, as far as it changes times: repacked weights, --exact, most rows

    Raises OSError where the model cannot be read.
    """
    text = repr((VERSION, fingerprint(model), runtime, machine, kv_type, n_threads, options))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def fingerprint(model: Path) -> str:
    """Size and hash of the first MiB: names, shapes and file type stand there.

    Survives copying, moving and touching, and costs a millisecond. A fine-tune with the same head and size shares it,
    which is right: shapes and weight types make the times, not the values. Raises OSError.
    """
    with open(model, "rb") as file:
        head = hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
        return f"{os.fstat(file.fileno()).st_size}-{head}"


def load(key: str) -> dict[str, Any] | None:
    """What was saved under the key, or None."""
    try:
        found = json.loads(_path(key).read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("key") != key or found.get("version") != VERSION:
        return None
    data = found.get("data")
    return data if isinstance(data, dict) else None


def save(key: str, data: Mapping[str, Any]) -> None:
    """Keep data under the key, written whole or not at all.

    Raises TypeError or ValueError for what JSON cannot hold; a disk that is full or read-only is passed over.
    """
    text = json.dumps({"version": VERSION, "key": key, "data": dict(data)}, allow_nan=False)
    with contextlib.suppress(OSError):  # the next start measures again, nothing else
        write_whole(_path(key), text)


def _path(key: str) -> Path:
    return paths.cache_dir() / f"calibration-{key}.json"

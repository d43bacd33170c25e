"""What answering taught about a pair of models, one JSON file each in the data folder: losing one costs the user.

Values are plain dicts; what they mean is their owner's affair (speculation/acceptance.py). A file that cannot be
understood is moved aside, not overwritten. Not covered: two processes that learn at once (the last one to save wins),
removing old files, which are some hundred bytes each.
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
from edgespec.store.calibration import fingerprint
from edgespec.store.files import write_whole

# Raised when what older versions learnt means something else now: it is learnt again.
VERSION = 1


def key(target: Path, draft: Path | None, method: str) -> str:
    """What was learnt holds for this pair and source of drafts, wherever their files lie.

    Not part of it: the machine, which changes times and not acceptance. Raises OSError where a file cannot be read.
    """
    text = repr((fingerprint(target), fingerprint(draft) if draft else None, method))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def load(key: str) -> dict[str, Any] | None:
    """What was saved under the key, or None; whatever is the matter with the file."""
    return load_told(key)[0]


def load_told(key: str) -> tuple[dict[str, Any] | None, str | None]:
    """What was saved under the key, or None; and a line for the user where the file was damaged.

    A damaged file is renamed to end in .damaged; one of another version stays until the next save.
    """
    path = _path(key)
    try:
        text = path.read_bytes()
    except OSError:
        return None, None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or found.get("key") != key or not isinstance(found.get("data"), dict):
        with contextlib.suppress(OSError):  # a folder that cannot be written: then it is found damaged again
            os.replace(path, path.with_suffix(".damaged"))
        aside = path.with_suffix(".damaged")
        return None, f"what was learnt about speed begins anew: {path.name} is damaged; it is now {aside}"
    data: dict[str, Any] = found["data"]
    return (data if found.get("version") == VERSION else None), None


def save(key: str, data: Mapping[str, Any]) -> str | None:
    """Keep data under the key, written whole or not at all; a warning for the user where that failed, else None.

    Raises TypeError or ValueError for what JSON cannot hold.
    """
    text = json.dumps({"version": VERSION, "key": key, "data": dict(data)}, allow_nan=False)
    path = _path(key)
    try:
        write_whole(path, text)
    except OSError as error:
        return (
            f"what this conversation taught about speed was not kept: {error.strerror or error} ({path.parent}); "
            "name another folder with EDGESPEC_DATA_DIR"
        )
    return None


def _path(key: str) -> Path:
    return paths.data_dir() / f"learnt-{key}.json"

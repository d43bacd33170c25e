"""The four folders edgespec owns, where the operating system puts such things.

EDGESPEC_CONFIG_DIR, EDGESPEC_DATA_DIR, EDGESPEC_CACHE_DIR and EDGESPEC_STATE_DIR name other ones (tests use
them); they are read at every call. Not covered: making the folders; whoever writes first does.
"""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import PlatformDirs

_DIRS = PlatformDirs("edgespec", appauthor=False)


def config_dir() -> Path:
    """Where config.toml lies."""
    return _folder("EDGESPEC_CONFIG_DIR", _DIRS.user_config_path)


def data_dir() -> Path:
    """What was said and learnt: losing it costs the user something."""
    return _folder("EDGESPEC_DATA_DIR", _DIRS.user_data_path)


def cache_dir() -> Path:
    """What was measured about the machine: losing it costs seconds."""
    return _folder("EDGESPEC_CACHE_DIR", _DIRS.user_cache_path)


def state_dir() -> Path:
    """Logs."""
    return _folder("EDGESPEC_STATE_DIR", _DIRS.user_state_path)


def _folder(variable: str, default: Path) -> Path:
    """The folder the environment names, absolute, or the default; an empty variable counts as unset."""
    named = os.environ.get(variable)
    return Path(os.path.abspath(os.path.expanduser(named))) if named else default

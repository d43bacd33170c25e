"""The user's cache of runtime wheels: one folder per build, complete or absent.

A wheel enters by one rename, so a build that was killed leaves nothing that looks like a wheel. pip's own
cache is no substitute: it does not know that CMAKE_ARGS differ.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

_STALE_SECONDS = 24 * 3600


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where wheels are kept: $XDG_CACHE_HOME/edgespec/wheels, or ~/.cache/edgespec/wheels."""
    base = Path(env.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path(os.path.expanduser("~/.cache"))) / "edgespec" / "wheels"


def find_wheel(folder: Path, key: str) -> Path | None:
    """The wheel kept under `key`; None if there is none that is whole."""
    wheels = sorted((folder / key).glob("*.whl"))
    return wheels[0] if len(wheels) == 1 and zipfile.is_zipfile(wheels[0]) else None


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """A private folder beside the wheels to build in, gone afterwards however it ends; raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    place = folder / f".building-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def keep_wheel(folder: Path, key: str, made: Path) -> Path | None:
    """Put the one whole wheel of folder `made` into the cache; where it lies now, None if there is none."""
    wheels = sorted(made.glob("*.whl"))
    if len(wheels) != 1 or not zipfile.is_zipfile(wheels[0]):
        return None
    if find_wheel(folder, key) is None:
        shutil.rmtree(folder / key, ignore_errors=True)
        with contextlib.suppress(OSError):  # another set-up was first: its wheel is as good
            os.replace(made, folder / key)
    return find_wheel(folder, key)


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock among processes of this machine; on_wait() is called once if another one has it.

    Where the system has no flock the work goes on unlocked: two set-ups may then build the same wheel twice.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        yield


def _sweep(folder: Path) -> None:
    """Remove workshops of builds that were killed a day ago or more."""
    for place in folder.glob(".building-*"):
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(place, ignore_errors=True)

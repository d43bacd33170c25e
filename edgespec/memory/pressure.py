"""How much memory is free right now, and whether that calls for a step; asked once a round, so in microseconds.

Files are opened once and read again in place. Not covered: what a configuration needs (predict.py), changing one
(engine/ladder.py), swap.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil

from edgespec.errors import BadSetting, EdgespecError

# Name and free bytes of every device that is in use.
Devices = Callable[[], Sequence[tuple[str, int]]]
Move = Literal["down", "stay", "up"]

MACHINE = "on this machine"
# Version 1 says "no limit" by the largest multiple of a page in 63 bits.
NO_LIMIT = 1 << 60
_N_READ = 16384


@dataclass(frozen=True)
class Reading:
    """free_bytes: what may still be allocated; limit: which bound is the nearest, to be put after "free"."""

    free_bytes: int
    limit: str = MACHINE


class _File:
    """A small file of the kernel, read in place; None once it is gone."""

    def __init__(self, path: Path) -> None:
        try:
            self._fd: int | None = os.open(path, os.O_RDONLY)
        except OSError:
            self._fd = None

    def read(self, n_bytes: int = _N_READ) -> bytes | None:
        if self._fd is None:
            return None
        try:
            return os.pread(self._fd, n_bytes, 0)
        except OSError:
            self.close()
            return None

    def number(self) -> int | None:
        """Its one number; None for "max" and for no limit in other words."""
        text = (self.read(64) or b"").strip()
        found = int(text) if text.isdigit() else None
        return None if found is None or found >= NO_LIMIT else found

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True)
class _Group:
    """The files of one control group; inactive names the line of `stat` with the file cache that gives way first."""

    name: str
    limits: tuple[_File, ...]
    usage: _File
    stat: _File
    inactive: bytes

    def free(self, enough: int) -> int | None:
        """Bytes below the limit, reclaimable cache included; None without a limit, or where `enough` are free anyway
        (statistics cost more than all the rest)."""
        limit = min((n for n in (f.number() for f in self.limits) if n is not None), default=None)
        usage = None if limit is None else self.usage.number()
        if limit is None or usage is None or limit - usage >= enough:
            return None
        return max(limit - usage + (_field(self.stat.read() or b"", self.inactive) or 0), 0)

    def files(self) -> tuple[_File, ...]:
        return (*self.limits, self.usage, self.stat)


class Gauge:
    """Reads what limits this process: the machine, its control group and every one above it, devices.

    proc, cgroups: where those file systems are mounted. Without /proc/meminfo psutil is asked.
    """

    def __init__(
        self, devices: Devices | None = None, *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
    ) -> None:
        self._devices = devices
        self._meminfo = _File(proc / "meminfo")
        self._groups = tuple(_groups(proc / "self" / "cgroup", cgroups))

    def read(self) -> Reading:
        """The nearest bound now. A control group or a device that is gone limits nothing: a pass that needs it will say
        so itself."""
        nearest = Reading(self._machine_free())
        for group in self._groups:
            free = group.free(nearest.free_bytes)
            if free is not None and free < nearest.free_bytes:
                nearest = Reading(free, f"in control group {group.name}")
        if self._devices is not None:
            try:
                found = self._devices()
            except (OSError, RuntimeError, EdgespecError):
                found = ()
            for name, free in found:
                if free < nearest.free_bytes:
                    nearest = Reading(free, f"on device {name}")
        return nearest

    def _machine_free(self) -> int:
        text = self._meminfo.read(256)  # it is the third line
        free = None if text is None else _field(text, b"MemAvailable:")
        return int(psutil.virtual_memory().available) if free is None else free << 10

    def close(self) -> None:
        for file in (self._meminfo, *(f for group in self._groups for f in group.files())):
            file.close()


def read_once() -> Reading:
    """What is free now, devices aside."""
    gauge = Gauge()
    try:
        return gauge.read()
    finally:
        gauge.close()


def _field(text: bytes, name: bytes) -> int | None:
    """The number behind a line's first word."""
    start = 0 if text.startswith(name + b" ") else text.find(b"\n" + name + b" ") + 1
    if not start and not text.startswith(name + b" "):
        return None
    word = text[start + len(name) :].split(None, 1)[:1]
    return int(word[0]) if word and word[0].isdigit() else None


def _groups(membership: Path, root: Path) -> Iterator[_Group]:
    """The process's own groups and all above them, as far as they count memory."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            for name, folder in _chain(root / "memory", path):
                limit = _File(folder / "memory.limit_in_bytes")
                usage, stat = _File(folder / "memory.usage_in_bytes"), _File(folder / "memory.stat")
                yield _Group(name, (limit,), usage, stat, b"total_inactive_file")
        elif not controllers:
            mount = root / "unified" if (root / "unified").is_dir() else root
            for name, folder in _chain(mount, path):
                if (folder / "memory.current").exists():
                    limits = (_File(folder / "memory.max"), _File(folder / "memory.high"))
                    usage, stat = _File(folder / "memory.current"), _File(folder / "memory.stat")
                    yield _Group(name, limits, usage, stat, b"inactive_file")


def _chain(mount: Path, path: str) -> Iterator[tuple[str, Path]]:
    """Folders from the group at `path` up to the mount. In a container the mount begins somewhere below the path's
    root: leading parts that are not there are left out."""
    parts = [part for part in path.split("/") if part and part != ".."]
    while parts and not mount.joinpath(*parts).is_dir():
        del parts[0]
    for n in range(len(parts), -1, -1):
        folder = mount.joinpath(*parts[:n])
        if folder.is_dir():
            yield "/" + "/".join(parts[:n]), folder


@dataclass(frozen=True)
class Marks:
    """When to step. Raises BadSetting.

    low_bytes       less free than this is a step down at once
    high_bytes      so much must be left free behind a step up
    patience        rounds in a row for which it must be, before one
    patience_most   bound of the patience, which doubles whenever a step up was taken back
    """

    low_bytes: int
    high_bytes: int
    patience: int = 32
    patience_most: int = 1024

    def __post_init__(self) -> None:
        if not 0 <= self.low_bytes <= self.high_bytes:
            raise BadSetting(
                f"the low mark of {self.low_bytes} bytes must be 0 or more and at most the high one, {self.high_bytes}"
            )
        if not 1 <= self.patience <= self.patience_most:
            raise BadSetting(f"patience is {self.patience} rounds but must be between 1 and {self.patience_most}")


@dataclass(frozen=True)
class Calm:
    """What a decision remembers: rounds in a row with room above, how many are wanted, whether the last step was up."""

    n_calm: int
    n_wanted: int
    climbed: bool = False


def decide(free_bytes: int, up_bytes: int | None, marks: Marks, calm: Calm) -> tuple[Move, Calm]:
    """The step that a reading calls for, and what to remember; up_bytes: what the next rung up takes more, None at the
    top."""
    if free_bytes < marks.low_bytes:
        return "down", flapped(marks, calm) if calm.climbed else replace(calm, n_calm=0)
    if up_bytes is None or free_bytes <= marks.high_bytes + up_bytes:
        return "stay", calm if not calm.n_calm else replace(calm, n_calm=0)
    if calm.n_calm + 1 >= calm.n_wanted:
        return "up", Calm(0, calm.n_wanted, climbed=True)
    return "stay", replace(calm, n_calm=calm.n_calm + 1)


def flapped(marks: Marks, calm: Calm) -> Calm:
    """What to remember of a step up that had to be taken back."""
    return Calm(0, min(2 * calm.n_wanted, marks.patience_most))


@dataclass(frozen=True)
class Watch:
    """What the engine asks once a round: a reading, and the marks to judge it by."""

    read: Callable[[], Reading]
    marks: Marks

"""Fresh control groups with a limit of memory and of reading, to run programs in; versions 1 and 2.

A group is made below this process's own, so that nothing leaves the limits that are there already; where that cannot
hold a limit (version 2 allows none below a group with processes), below the nearest one above that can. Not covered:
systems without control groups, on which `new_group` raises Unavailable.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Puts itself into the group, then becomes the program: not a page of it is charged to anybody else.
SHIM = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
GRACE_S = 5


class Unavailable(Exception):
    """Why no group can be limited here."""


@dataclass(frozen=True)
class Group:
    """One control group; figures are bytes since it was made. disk: of version 1, a second one that limits reading."""

    folder: Path
    version: int
    disk: Path | None = None

    def command(self, program: Sequence[str]) -> list[str]:
        """The program as a command that lives in the group from its very start."""
        inside = ["sh", "-c", SHIM, str(self.folder), *program]
        return inside if self.disk is None else ["sh", "-c", SHIM, str(self.disk), *inside]

    @property
    def usage_bytes(self) -> int:
        return self._number("memory.usage_in_bytes", "memory.current")

    @property
    def peak_bytes(self) -> int:
        """The most that was charged, file cache included; 0 where version 2 does not tell (before Linux 5.19)."""
        return self._number("memory.max_usage_in_bytes", "memory.peak")

    @property
    def n_limited(self) -> int:
        """How often an allocation hit the limit; file cache gives way as a rule."""
        return self._number("memory.failcnt", "") if self.version == 1 else self._field("memory.events", "max")

    @property
    def n_killed(self) -> int:
        return self._field("memory.oom_control" if self.version == 1 else "memory.events", "oom_kill")

    @property
    def own_bytes(self) -> int:
        """What cannot give way: pages without a file."""
        return self._field("memory.stat", "rss" if self.version == 1 else "anon")

    @property
    def free_bytes(self) -> int:
        """What the limit leaves, file cache that gives way first included (as memory/pressure.py counts)."""
        limit = self._number("memory.limit_in_bytes", "memory.max")
        inactive = self._field("memory.stat", "total_inactive_file" if self.version == 1 else "inactive_file")
        return limit - self.usage_bytes + inactive

    def _number(self, first: str, second: str) -> int:
        try:
            return int((self.folder / (first if self.version == 1 else second)).read_text())
        except (OSError, ValueError):
            return 0

    def _field(self, file: str, name: str) -> int:
        try:
            lines = (self.folder / file).read_text().splitlines()
        except OSError:
            return 0
        return next((int(value) for key, _, value in (line.partition(" ") for line in lines) if key == name), 0)

    def remove(self) -> None:
        """End what is left in it and remove it."""
        end = time.monotonic() + GRACE_S
        while self.folder.exists():
            with contextlib.suppress(OSError):
                self.folder.rmdir()
                return
            if time.monotonic() > end:
                for pid in (self.folder / "cgroup.procs").read_text().split():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                end += GRACE_S
            time.sleep(0.02)


@contextlib.contextmanager
def new_group(limit_bytes: int, name: str = "edgespec") -> Iterator[Group]:
    """A group of that limit (and no swap), removed in the end. Raises Unavailable."""
    group = _made(f"{name}-{os.getpid()}-{time.monotonic_ns()}")
    try:
        _limit(group, limit_bytes)
        yield group
    finally:
        group.remove()


def _limit(group: Group, limit_bytes: int) -> None:
    """Raises Unavailable."""
    try:
        limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        for file, value in [(f, limit_bytes) for f in limits] if group.version == 1 else [("memory.max", limit_bytes)]:
            with contextlib.suppress(FileNotFoundError):  # without swap accounting there is no limit of it
                (group.folder / file).write_text(str(value))
        if group.version == 2:
            with contextlib.suppress(OSError):
                (group.folder / "memory.swap.max").write_text("0")
    except OSError as error:
        raise Unavailable(f"the limit of a control group cannot be set ({error.strerror})") from error


@contextlib.contextmanager
def throttled(group: Group, file: Path, bytes_per_s: int) -> Iterator[Group]:
    """The group with reads from the disk of a file limited to so many bytes a second. Raises Unavailable."""
    folder = group.folder if group.version == 2 else ROOT / "blkio" / group.folder.name
    made = False
    try:
        try:
            device = _disk_of(file)
            if group.version == 2:
                (folder / "io.max").write_text(f"{device} rbps={bytes_per_s}")
            else:
                folder.mkdir()
                made = True
                (folder / "blkio.throttle.read_bps_device").write_text(f"{device} {bytes_per_s}")
        except OSError as error:
            raise Unavailable(f"reading from the disk cannot be limited here ({error.strerror})") from error
        yield replace(group, disk=folder) if made else group
    finally:
        if made:
            Group(folder, 1).remove()


def _disk_of(file: Path) -> str:
    """major:minor of the whole disk that a file lies on; limits know no partitions."""
    number = os.stat(file).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    place = Path("/sys/dev/block") / device
    return (place.resolve().parent / "dev").read_text().strip() if (place / "partition").exists() else device


def unavailable() -> str:
    """Why no group can be limited here; "" where one can."""
    try:
        with new_group(1 << 30, "edgespec-try") as group:
            found = subprocess.run(group.command(["true"]), capture_output=True, text=True)
            return "" if found.returncode == 0 else f"no process can be put into a control group ({found.stderr})"
    except Unavailable as error:
        return str(error)


def _made(name: str) -> Group:
    """An empty group that counts memory."""
    try:
        lines = [line.split(":", 2) for line in MEMBERSHIP.read_text().splitlines()]
    except OSError:
        raise Unavailable("this system has no control groups") from None
    whys = []
    for _, controllers, path in lines:
        if "memory" in controllers.split(","):
            whys.append(_tried(ROOT / "memory", path, name, 1))
        elif not controllers:
            whys.append(_tried(ROOT, path, name, 2))
        if whys and isinstance(whys[-1], Group):
            return whys[-1]
    told = next((str(why) for why in whys if why), "no control group here counts memory")
    raise Unavailable(told)


def _tried(mount: Path, path: str, name: str, version: int) -> Group | str:
    """A group as near to `path` as can hold a limit, else why there is none."""
    parts, why = [part for part in path.split("/") if part and part != ".."], ""
    for n in range(len(parts), -1, -1):
        above = mount.joinpath(*parts[:n])
        if not above.is_dir():
            continue
        group = Group(above / name, version)
        try:
            group.folder.mkdir()
        except OSError as error:
            why = f"no control group can be made ({error.strerror})"
            continue
        if (group.folder / ("memory.limit_in_bytes" if version == 1 else "memory.max")).exists():
            return group
        group.folder.rmdir()
    return why


def nameless(text: str) -> str:
    """A sentence without the names of this machine's groups."""
    return re.sub(r"control group /\S*?(?=[,;:)\s]|$)", "its control group", text)


def watch(process: subprocess.Popen[Any], group: Group | None, every_s: float = 0.01) -> int:
    """Wait for a process; the most of `own_bytes` that was seen meanwhile."""
    most = 0
    while True:
        try:
            process.wait(every_s)
            return most
        except subprocess.TimeoutExpired:
            most = max(most, group.own_bytes if group else 0)

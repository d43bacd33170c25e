"""Free memory as the kernel tells it, on trees of files that tests write; and the decision to step."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from edgespec.errors import BadSetting
from edgespec.memory.pressure import Calm, Gauge, Marks, Reading, decide, flapped

MIB = 1 << 20
UNLIMITED = "9223372036854771712"
MEMINFO = "MemTotal:       24684092 kB\nMemFree:        1000 kB\nMemAvailable:   {} kB\nBuffers:  8000 kB\n"


class Tree:
    """A fake /proc and /sys/fs/cgroup."""

    def __init__(self, root: Path, available_kib: int = 8 << 20) -> None:
        self.proc, self.cgroups = root / "proc", root / "cgroup"
        self.write(self.proc / "meminfo", MEMINFO.format(available_kib))
        self.cgroups.mkdir()

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def member(self, *lines: str) -> None:
        self.write(self.proc / "self" / "cgroup", "\n".join(lines) + "\n")

    def v1(self, group: str, limit: str, usage: int, inactive: int = 0) -> Path:
        folder = self.cgroups / "memory" / group.strip("/")
        self.write(folder / "memory.limit_in_bytes", f"{limit}\n")
        self.write(folder / "memory.usage_in_bytes", f"{usage}\n")
        self.write(folder / "memory.stat", f"cache 1\ninactive_file 7\ntotal_inactive_file {inactive}\n")
        return folder

    def v2(self, group: str, limit: str, usage: int, inactive: int = 0, high: str = "max", mount: str = "") -> Path:
        folder = self.cgroups / mount / group.strip("/")
        self.write(folder / "memory.max", f"{limit}\n")
        self.write(folder / "memory.high", f"{high}\n")
        self.write(folder / "memory.current", f"{usage}\n")
        self.write(folder / "memory.stat", f"anon 1\ninactive_file {inactive}\n")
        return folder

    def gauge(self, devices=None) -> Gauge:
        return Gauge(devices, proc=self.proc, cgroups=self.cgroups)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


# --- readings


def test_without_groups_it_is_what_the_machine_has_available(tree: Tree) -> None:
    """Fails when free memory is counted without the cache that would give way: MemFree says 1 MiB here."""
    assert tree.gauge().read() == Reading(8 << 30, "on this machine")


def test_a_file_is_read_anew_each_time(tree: Tree) -> None:
    """Fails when an open file gives what it said first."""
    gauge = tree.gauge()
    gauge.read()
    tree.write(tree.proc / "meminfo", MEMINFO.format(1024))
    assert gauge.read() == Reading(MIB)


def test_where_there_is_no_proc_psutil_is_asked(tmp_path: Path) -> None:
    """Fails when other systems have no memory at all."""
    free = Gauge(proc=tmp_path, cgroups=tmp_path).read().free_bytes
    assert free == pytest.approx(psutil.virtual_memory().available, rel=0.5)


def test_the_group_of_version_1_limits_less_its_inactive_cache(tree: Tree) -> None:
    """Fails when file cache counts as used: 100 - 90 + 30 of the group and the groups below it."""
    tree.member("9:name=systemd:/", "4:cpu,memory:/box", "0::/")
    tree.v1("/", UNLIMITED, 10**9)
    tree.v1("/box", str(100 * MIB), 90 * MIB, 30 * MIB)
    assert tree.gauge().read() == Reading(40 * MIB, "in control group /box")


def test_the_group_of_version_2_limits_too(tree: Tree) -> None:
    """Fails when the newer files are not known, or "max" is taken for a number."""
    tree.member("0::/user/app")
    tree.v2("/user", "max", 10**9)
    tree.v2("/user/app", str(100 * MIB), 90 * MIB, 5 * MIB)
    assert tree.gauge().read() == Reading(15 * MIB, "in control group /user/app")


def test_version_2_beside_version_1_is_found_at_its_own_mount(tree: Tree) -> None:
    """Fails when a hybrid system's empty unified tree, or a full one, is overlooked."""
    tree.member("4:memory:/", "0::/app")
    tree.v1("/", UNLIMITED, 0)
    tree.v2("/app", str(64 * MIB), 0, mount="unified")
    assert tree.gauge().read() == Reading(64 * MIB, "in control group /app")


def test_a_mark_from_which_the_kernel_slows_a_group_down_is_a_limit(tree: Tree) -> None:
    """Fails when memory.high is run into: the process would be throttled to a crawl long before memory.max."""
    tree.member("0::/app")
    tree.v2("/app", str(100 * MIB), 10 * MIB, high=str(50 * MIB))
    assert tree.gauge().read().free_bytes == 40 * MIB


@pytest.mark.parametrize("tight", ["/", "/a", "/a/b", "/a/b/c"])
def test_every_group_above_counts(tree: Tree, tight: str) -> None:
    """Fails when only the process's own group is looked at: any one above it can be the tight one."""
    tree.member("4:memory:/a/b/c")
    for group in ("/", "/a", "/a/b", "/a/b/c"):
        tree.v1(group, str((20 if group == tight else 900) * MIB), 10 * MIB)
    assert tree.gauge().read() == Reading(10 * MIB, f"in control group {tight}")


def test_in_a_container_the_group_is_found_below_the_mount(tree: Tree) -> None:
    """Fails when the path is the host's and the mount begins at the container's own group."""
    tree.member("4:memory:/docker/0123abcd/inner")
    tree.v1("/", str(200 * MIB), 0)
    tree.v1("/inner", str(50 * MIB), 0)
    assert tree.gauge().read() == Reading(50 * MIB, "in control group /inner")
    tree.member("4:memory:/docker/0123abcd")
    assert tree.gauge().read() == Reading(200 * MIB, "in control group /")


def test_a_limit_set_later_is_seen(tree: Tree) -> None:
    """Fails when "no limit" is remembered: limits of a running container can be changed."""
    tree.member("4:memory:/box")
    folder = tree.v1("/box", UNLIMITED, 10 * MIB)
    gauge = tree.gauge()
    assert gauge.read().limit == "on this machine"
    tree.write(folder / "memory.limit_in_bytes", str(30 * MIB))
    assert gauge.read() == Reading(20 * MIB, "in control group /box")


def test_usage_above_the_limit_is_no_memory_not_less_than_none(tree: Tree) -> None:
    """Fails when a group over its limit gives a negative size to whoever divides by it."""
    tree.member("4:memory:/box")
    tree.v1("/box", str(10 * MIB), 30 * MIB)
    assert tree.gauge().read().free_bytes == 0


@pytest.mark.parametrize("damage", ["", "nonsense\n"])
@pytest.mark.parametrize("name", ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"])
def test_files_that_say_nothing_limit_nothing(tree: Tree, name: str, damage: str) -> None:
    """Fails when a group that is being removed, or a kernel of another mind, ends the answer."""
    tree.member("4:memory:/box")
    folder = tree.v1("/box", str(100 * MIB), 40 * MIB)
    gauge = tree.gauge()
    tree.write(folder / name, damage)
    assert gauge.read().free_bytes in (8 << 30, 60 * MIB)


def test_files_that_are_gone_limit_nothing(tree: Tree) -> None:
    """Fails when a closed file is read, or one that never was."""
    tree.member("4:memory:/box", "0::/box")
    (tree.cgroups / "memory" / "box").mkdir(parents=True)
    gauge = tree.gauge()
    assert gauge.read().limit == "on this machine"
    gauge.close()
    assert gauge.read().free_bytes > 0


def test_the_device_with_the_least_is_the_nearest_bound(tree: Tree) -> None:
    """Fails when only the host is watched while weights and cache lie on a device."""
    gauge = tree.gauge(lambda: [("CUDA0", 3 * MIB), ("CUDA1", 2 * MIB)])
    assert gauge.read() == Reading(2 * MIB, "on device CUDA1")


@pytest.mark.parametrize("error", [OSError("no such device"), RuntimeError("driver is gone")])
def test_a_device_that_disappears_limits_nothing(tree: Tree, error: Exception) -> None:
    """Fails when looking at the memory ends an answer that the next pass would have ended with a better message."""

    def gone() -> list[tuple[str, int]]:
        raise error

    assert tree.gauge(gone).read() == Reading(8 << 30)


def test_this_machine_can_be_read() -> None:
    """Fails when the files of the system the tests run on are not what is expected of them."""
    gauge = Gauge()
    assert 0 < gauge.read().free_bytes <= psutil.virtual_memory().total
    gauge.close()


# --- decisions

MARKS = Marks(low_bytes=100, high_bytes=200, patience=3, patience_most=10)
FRESH = Calm(0, MARKS.patience)


def moves(frees: list[int], up_bytes: int | None = 50, calm: Calm = FRESH) -> tuple[list[str], Calm]:
    said = []
    for free in frees:
        move, calm = decide(free, up_bytes, MARKS, calm)
        said.append(move)
    return said, calm


def test_below_the_low_mark_it_steps_down_at_once() -> None:
    """Fails when a shortage is waited out: the next allocation may be the last."""
    assert moves([100, 99, 98])[0] == ["stay", "down", "down"]


def test_a_step_up_waits_for_room_behind_it_for_so_many_rounds_in_a_row() -> None:
    """Fails when it climbs at the mark, into what it lacks, or after rounds that were not in a row."""
    assert moves([250] * 9)[0] == ["stay"] * 9
    assert moves([251, 251, 250, 251, 251, 251, 251])[0] == ["stay"] * 5 + ["up", "stay"]


def test_at_the_top_nothing_goes_up() -> None:
    """Fails when there is no rung above."""
    assert moves([10**9] * 9, up_bytes=None)[0] == ["stay"] * 9


def test_every_climb_that_is_taken_back_doubles_the_patience_up_to_a_bound() -> None:
    """Fails when it flaps for ever at the same pace, or is never patient enough to try again."""
    calm, wanted = FRESH, []
    for _ in range(4):
        said, calm = moves([251] * calm.n_wanted, calm=calm)
        assert said[-1] == "up"
        _, calm = decide(0, 50, MARKS, calm)
        wanted.append(calm.n_wanted)
    assert wanted == [6, 10, 10, 10]


def test_stepping_down_twice_is_one_flap() -> None:
    """Fails when a long way down makes the way up long as well."""
    _, calm = moves([251] * 3)
    assert moves([0, 0, 0], calm=calm)[1] == Calm(0, 6)
    assert flapped(MARKS, FRESH) == Calm(0, 6)


@pytest.mark.parametrize("wrong", [(-1, 5, 1, 1), (6, 5, 1, 1), (1, 5, 0, 1), (1, 5, 2, 1)])
def test_marks_that_make_no_sense_are_refused(wrong: tuple[int, int, int, int]) -> None:
    """Fails when a low mark above the high one makes every round a step."""
    with pytest.raises(BadSetting):
        Marks(*wrong)

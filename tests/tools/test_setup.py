"""What `make` promises: quick when ready, honest about waiting and failing, and never half a runtime."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
import threading
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from edgespec.backends.llama_cpp.gpu import Facts
from tools import build_log, environment, prebuilt, process, runtime, setup, wheel_cache
from tools.build_log import Step

ROOT = Path(__file__).resolve().parents[2]
WHEEL = "llama_cpp_python-0.3.36-py3-none-linux_x86_64.whl"
NINJA = "  [22/193] /usr/bin/g++ -DGGML_BUILD -O3 -c /tmp/x/[12/34]/ggml.cpp -o ggml.o"


def make_wheel(folder: Path) -> Path:
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.writestr("llama_cpp/__init__.py", "")
    return folder / WHEEL


def run(*code: str) -> list[str]:
    return [sys.executable, "-c", "; ".join(code)]


# --- reading the build's output


@pytest.mark.parametrize(
    ("line", "step"),
    [
        (NINJA, Step(22, 193)),
        ("  [193/193] : && cmake -E cmake_symlink_library x y", Step(193, 193)),
        ("  [ 12%] Building CXX object ggml.cpp.o", Step(12, 100)),
        ("  Downloading llama_cpp_python-0.3.36.tar.gz (76.6 MB)", None),
        ("  -- Looking for [1/2] things", None),
        ("  [5/0] nonsense", None),
        ("  [9/3] nonsense", None),
        ("", None),
    ],
)
def test_a_step_is_read_from_ninja_and_make_and_nothing_else(line: str, step: Step | None) -> None:
    """cmake's messages and compiler arguments may hold brackets and slashes too."""
    assert build_log.parse_step(line) == step


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        ("  Downloading llama_cpp_python-0.3.36.tar.gz (76.6 MB)", "downloading the sources"),
        ("  *** Configuring CMake...", "configuring"),
        ("Collecting numpy", "downloading"),
        ("  Collecting scikit-build-core", None),
        (NINJA, None),
    ],
)
def test_a_phase_is_read_from_pip_and_the_build(line: str, phase: str | None) -> None:
    """Half a minute goes by before the first step, and nothing may look stuck."""
    assert build_log.parse_phase(line) == phase


def test_progress_never_goes_backwards() -> None:
    """The Vulkan build runs a small build of its own within."""
    assert build_log.further(Step(50, 193), Step(1, 3)) == Step(50, 193)
    assert build_log.further(Step(50, 193), Step(49, 193)) == Step(50, 193)
    assert build_log.further(Step(2, 3), Step(1, 193)) == Step(1, 193)
    assert build_log.further(None, None) is None


def test_the_meter_tells_share_and_time_left() -> None:
    """By hand: 50 of 200 steps took 60 s, so 150 take 180 s more."""
    meter = process.Meter("building", started=0.0)
    meter.read("  *** Configuring CMake...", 10.0)
    meter.read("  [1/200] g++", 20.0)
    meter.read("  [50/200] g++", 80.0)
    assert meter.line(80.0, 200) == "  building [#####               ] 50/200, 1m20s, about 3m00s left"
    assert len(meter.line(80.0, 30)) == 30


def test_a_plain_log_gets_one_line_for_each_tenth() -> None:
    """193 lines would bury what matters."""
    meter = process.Meter("building", started=0.0)
    told = []
    for n in range(1, 101):
        meter.read(f"  [{n}/100] g++", float(n))
        told.append(meter.news(float(n)))
    lines = [line for line in told if line]
    assert lines[0].startswith("  building: 10 % (10/100), 0m10s")
    assert len(lines) == 10


def test_a_failure_is_told_by_its_last_telling_lines_without_addresses() -> None:
    """The last line of a pip log is about pip, and index addresses are nobody's business."""
    log = "\n".join(
        [
            "Looking in indexes: https://user:secret@example.org/simple",
            "  [5/193] g++ -Werror=format x.cpp",
            "  /x/ggml.cpp:12:3: error: 'foo' was not declared in this scope",
            "  ninja: build stopped: subcommand failed.",
            "  error: subprocess-exited-with-error",
            "ERROR: Failed building wheel from https://user:secret@example.org/a.tar.gz",
        ]
    )
    assert build_log.last_meaningful(log) == [
        "/x/ggml.cpp:12:3: error: 'foo' was not declared in this scope",
        "ninja: build stopped: subcommand failed.",
        "ERROR: Failed building wheel from <address>",
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("NewConnectionError('[Errno -3] Temporary failure in name resolution", "connect to the network"),
        ("fatal error: error writing to /tmp/x.s: No space left on device", "disk is full"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "CMAKE_BUILD_PARALLEL_LEVEL=1"),
        ("CMake Error: No CMAKE_CXX_COMPILER could be found.", "sudo apt install gcc g++ make"),
        ("ERROR: No matching distribution found for llama-cpp-python==0.3.36", "no fitting package"),
    ],
)
def test_a_common_failure_is_told_by_its_cause_and_mend(line: str, words: str) -> None:
    """A log excerpt alone tells most people nothing."""
    assert words in str(build_log.cause(f"[1/9] g++ x.cpp\n{line}\n"))


def test_an_uncommon_failure_has_no_cause_made_up() -> None:
    """A wrong piece of advice is worse than the log's own words."""
    assert build_log.cause("[1/9] g++ x.cpp\nx.cpp:1:1: error: expected ';'\n") is None


# --- running the build


def test_the_whole_output_is_logged_and_the_exit_status_returned() -> None:
    """Progress is a summary; the log is the evidence."""
    log, out = io.StringIO(), io.StringIO()
    command = run("print('  [1/2] g++')", "print('  [2/2] g++')", "raise SystemExit(3)")
    assert process.run_logged(command, "building", log, out=out) == 3
    assert log.getvalue() == "  [1/2] g++\n  [2/2] g++\n"
    assert out.getvalue().splitlines()[-1].startswith("  building: 100 % (2/2)")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupting_ends_the_build_and_every_process_of_it(tmp_path: Path) -> None:
    """A compiler left behind keeps two cores busy and writes into folders that are gone."""
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    compiler = f'"{sys.executable}" -c "print(1, flush=True); input()" 2>"{tmp_path}/alive"'

    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run_logged(
            ["sh", "-c", f"sleep 600 | {compiler} & wait"], "building", Interrupting(), out=io.StringIO()
        )
    ended, _, _ = select.select([reader], [], [], 20)  # end of file: nobody holds the other end
    assert ended
    assert os.read(reader, 1) == b""
    os.close(reader)


# --- the wheel cache


def test_a_finished_wheel_is_found_again(tmp_path: Path) -> None:
    """A second clone takes seconds, not minutes."""
    with wheel_cache.workshop(tmp_path) as place:
        make_wheel(place / "made")
        kept = wheel_cache.keep_wheel(tmp_path, "key", place / "made")
    assert kept == tmp_path / "key" / WHEEL
    assert wheel_cache.find_wheel(tmp_path, "key") == kept
    assert wheel_cache.find_wheel(tmp_path, "other") is None


def test_an_interrupted_build_leaves_no_wheel_and_no_workshop(tmp_path: Path) -> None:
    """Half a wheel would be installed by the next run."""

    def interrupted() -> None:
        with wheel_cache.workshop(tmp_path) as place:
            make_wheel(place / "made")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_build_killed_outright_leaves_nothing_that_counts_as_a_wheel(tmp_path: Path) -> None:
    """No clean-up runs after SIGKILL or a power cut."""
    code = (
        f"import sys, os, signal, pathlib; sys.path.insert(0, {str(ROOT)!r})",
        f"from tools import wheel_cache; shop = wheel_cache.workshop(pathlib.Path({str(tmp_path)!r}))",
        "w = shop.__enter__()",
        f"(w / 'made').mkdir(); (w / 'made' / {WHEEL!r}).write_bytes(b'PK half a wheel')",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    assert subprocess.run(run(*code), check=False).returncode == -signal.SIGKILL
    assert wheel_cache.find_wheel(tmp_path, "key") is None
    assert list(tmp_path.glob("*/*.whl")) == []


def test_a_damaged_wheel_is_not_kept_or_found(tmp_path: Path) -> None:
    """A full disk leaves files cut short."""
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / WHEEL).write_bytes(b"PK half a wheel")
    assert wheel_cache.keep_wheel(tmp_path, "key", tmp_path / "made") is None
    (tmp_path / "made").rename(tmp_path / "key")
    assert wheel_cache.find_wheel(tmp_path, "key") is None


def test_workshops_of_builds_killed_long_ago_are_removed(tmp_path: Path) -> None:
    """Each would keep half a gigabyte for ever."""
    for name, age in ((".building-1", 0), (".building-2", 10**6)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (os.stat(tmp_path).st_mtime - age,) * 2)
    with wheel_cache.workshop(tmp_path):
        assert (tmp_path / ".building-1").exists()
        assert not (tmp_path / ".building-2").exists()


def test_the_cache_is_where_the_user_keeps_caches() -> None:
    """The XDG base directory rule: a relative path is to be ignored."""
    assert wheel_cache.cache_folder({"XDG_CACHE_HOME": "/c"}) == Path("/c/edgespec/wheels")
    for env in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}):
        assert wheel_cache.cache_folder(env) == Path("~/.cache/edgespec/wheels").expanduser()


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_two_set_ups_take_turns(tmp_path: Path) -> None:
    """Two terminals, one checkout: both would write the same .venv."""
    waiting, order = threading.Event(), []

    def second() -> None:
        with wheel_cache.locked(tmp_path / "lock", waiting.set):
            order.append("second")

    with wheel_cache.locked(tmp_path / "lock", lambda: None):
        other = threading.Thread(target=second)
        other.start()
        assert waiting.wait(10)
        order.append("first")
    other.join(10)
    assert order == ["first", "second"]


# --- prebuilt wheels

_RELEASE = "https://example.org/releases/download"
INDEX = "\n".join(
    f'<a href="{_RELEASE}/v{version}-cu124/llama_cpp_python-{version}-py3-none-{platform}.whl">link</a><br>'
    for version in ("0.3.35", "0.3.36", "0.3.360")
    for platform in ("manylinux_2_27_x86_64.manylinux_2_28_x86_64", "win_amd64")
)


@pytest.mark.parametrize(
    ("system", "arch", "ending"),
    [
        ("Linux", "x86_64", "0.3.36-py3-none-manylinux_2_27_x86_64.manylinux_2_28_x86_64.whl"),
        ("Windows", "amd64", "0.3.36-py3-none-win_amd64.whl"),
        ("Linux", "aarch64", None),
        ("Darwin", "arm64", None),
    ],
)
def test_only_the_wheel_of_exactly_this_version_and_system_is_taken(system: str, arch: str, ending: str | None) -> None:
    """The index lists every release, and the newest is another runtime."""
    found = prebuilt.pick_wheel(INDEX, "0.3.36", system, arch)
    assert found is None if ending is None else found is not None and found.endswith(ending)


def test_no_answer_from_the_index_is_no_wheel() -> None:
    """Offline, or a page that is something else."""
    assert prebuilt.pick_wheel("", "0.3.36", "Linux", "x86_64") is None
    assert prebuilt.pick_wheel("<html>sign in</html>", "0.3.36", "Linux", "x86_64") is None


def test_a_cuda_wheel_comes_with_the_libraries_it_links_to() -> None:
    """llama-cpp-python's CUDA wheels leave out libcudart and libcublas; without them the import fails."""
    assert prebuilt.runtime_libraries("cu124") == (
        "nvidia-cuda-runtime-cu12==12.4.*",
        "nvidia-cublas-cu12==12.4.*",
    )
    assert prebuilt.runtime_libraries("cu130") == ("nvidia-cuda-runtime==13.0.*", "nvidia-cublas==13.0.*")
    assert prebuilt.runtime_libraries("cu118") == ("nvidia-cuda-runtime-cu11", "nvidia-cublas-cu11")
    assert prebuilt.runtime_libraries("vulkan") == ()


def test_cuda_libraries_are_linked_beside_llama_cpps_own_once(tmp_path: Path) -> None:
    """That folder is searched first, with no environment variable."""
    (tmp_path / "llama_cpp" / "lib").mkdir(parents=True)
    for folder, name in (("cublas", "libcublas.so.12"), ("cuda_runtime", "libcudart.so.12")):
        (tmp_path / "nvidia" / folder / "lib").mkdir(parents=True)
        (tmp_path / "nvidia" / folder / "lib" / name).write_text(name)
    assert prebuilt.link_libraries(tmp_path) == 2
    assert prebuilt.link_libraries(tmp_path) == 0
    assert (tmp_path / "llama_cpp" / "lib" / "libcudart.so.12").read_text() == "libcudart.so.12"


# --- when there is something to do

MACHINE = Facts("Linux", "x86_64", "processor : 0\ncpu MHz : 2100\nflags : sse4_2 avx\n")


def test_an_environment_is_ready_if_nothing_changed_and_it_holds_the_extras() -> None:
    """`make chat` after `make test` has nothing to do; the other way round it has."""
    stamp = setup.Stamp("same", ("dev",), "key")
    assert setup.is_ready(stamp, "same", set())
    assert setup.is_ready(stamp, "same", {"dev"})
    assert not setup.is_ready(stamp, "changed", set())
    assert not setup.is_ready(setup.Stamp("same"), "same", {"dev"})
    assert not setup.is_ready(setup.Stamp(), "same", set())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"fingerprint": "x"}', '{"fingerprint": 1, "extras": 2, "runtime": 3, "cmake_args": 4}'],
)
def test_an_unreadable_stamp_means_not_ready(tmp_path: Path, text: str) -> None:
    """A set-up killed in the middle may leave anything."""
    (tmp_path / "stamp").write_text(text)
    assert setup.read_stamp(tmp_path / "stamp") == setup.Stamp()
    assert setup.read_stamp(tmp_path / "missing") == setup.Stamp()


def test_a_stamp_is_read_as_it_was_written(tmp_path: Path) -> None:
    """The user's own CMAKE_ARGS live here: a plain `make chat` must not undo the build they asked for."""
    stamp = setup.Stamp("print", ("dev",), "key", "-DGGML_BLAS=ON")
    (tmp_path / "stamp").write_text(json.dumps(asdict(stamp)))
    assert setup.read_stamp(tmp_path / "stamp") == stamp


@pytest.mark.parametrize(
    "changed",
    [
        (MACHINE, (b"other pyproject",), ("args",)),
        (MACHINE, (b"pyproject",), ("other args",)),
        (Facts("Linux", "x86_64", "flags : sse4_2 avx avx2\n"), (b"pyproject",), ("args",)),
        (Facts("Linux", "x86_64", MACHINE.cpuinfo, gpus=("nvidia",)), (b"pyproject",), ("args",)),
        (Facts("Linux", "x86_64", MACHINE.cpuinfo, cuda_root="/cuda"), (b"pyproject",), ("args",)),
    ],
)
def test_what_decides_the_set_up_changes_its_fingerprint(
    changed: tuple[Facts, tuple[bytes, ...], tuple[str, ...]],
) -> None:
    """New dependencies, other CMAKE_ARGS, another CPU, a new GPU, a toolkit installed meanwhile."""
    assert setup.fingerprint(MACHINE, (b"pyproject",), ("args",)) != setup.fingerprint(*changed)


def test_the_clock_rate_in_cpuinfo_does_not_change_the_fingerprint() -> None:
    """It differs at every reading: each run would set up anew."""
    later = Facts("Linux", "x86_64", MACHINE.cpuinfo.replace("2100", "3300"))
    assert setup.fingerprint(MACHINE, (b"",), ()) == setup.fingerprint(later, (b"",), ())


def test_an_environment_of_another_python_is_made_anew() -> None:
    """Its packages are of no use to this one."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert environment.is_for_this_python(f"home = /usr/bin\nversion = {version}.2\n")
    assert not environment.is_for_this_python("home = /usr/bin\nversion = 3.1.0\n")
    assert not environment.is_for_this_python("")


def test_the_runtime_version_has_one_home() -> None:
    """pyproject.toml pins it, and the build takes it from there."""
    assert runtime.pinned_version((ROOT / "pyproject.toml").read_text()) == "0.3.36"
    with pytest.raises(environment.SetupError):
        runtime.pinned_version("dependencies = []")


def test_without_compilers_the_sentence_names_the_command(tmp_path: Path) -> None:
    """A fresh machine has none."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})",
        "from tools.runtime import _compiler_version",
        "_compiler_version()",
    )
    env = {"PATH": str(tmp_path)}
    done = subprocess.run(run(*code), env=env, capture_output=True, text=True, check=False)
    assert "SetupError: There is no C and C++ compiler: run `" in done.stderr

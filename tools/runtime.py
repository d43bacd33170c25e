"""Getting the runtime, llama-cpp-python, into .venv: from the cache, prebuilt, or built here from source."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TextIO

from edgespec.backends.llama_cpp import build, gpu
from tools import prebuilt, wheel_cache
from tools.environment import ROOT, VENV, SetupError, failure, pip, say, venv_program
from tools.process import clock, tail_of

COMPILER_VARIABLES = ("CC", "CXX", "CFLAGS", "CXXFLAGS")
_BUILD_BYTES = 2 << 30
_DEMO = ROOT / "edgespec" / "demo" / "demo.gguf"
_TRIAL = """
import os, sys, llama_cpp
if os.path.exists(sys.argv[1]):
    model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_gpu_layers=0, verbose=False)
    model.create_completion("a", max_tokens=2)
print("offload" if llama_cpp.llama_cpp.llama_supports_gpu_offload() else "cpu")
"""


def pinned_version(pyproject: str) -> str:
    """The version of llama-cpp-python that the text of pyproject.toml pins; raises SetupError if none."""
    found = re.search(r"llama-cpp-python==([\w.]+)", pyproject)
    if found is None:
        raise SetupError("pyproject.toml pins no version of llama-cpp-python, so there is nothing to build.")
    return found.group(1)


def ensure_runtime(installed: str, cmake_args: str, log: TextIO) -> str:
    """Build key of the runtime that is now in .venv; nothing is done where `installed` is that already.

    cmake_args  the user's own, blank for those that fit this machine
    Raises SetupError where it can be neither found, fetched nor built.
    """
    version = pinned_version((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    facts = gpu.probe()
    plan = build.plan(facts, cmake_args)
    cache = _cache()
    with wheel_cache.locked(cache / "lock", lambda: say("waiting for another set-up's runtime")):
        for variant in plan.prebuilt:
            key = build.build_key(version, f"prebuilt-{variant}", _python_tag(), (platform.machine(),))
            if key == installed:
                return key
            wheel = wheel_cache.find_wheel(cache, key) or _fetch_prebuilt(variant, version, cache, key, log)
            if wheel is not None:
                installed = ""  # from here on another one is in its place
                if _install_prebuilt(variant, version, wheel, log):
                    return key
        if plan.warning:
            say(f"WARNING: {plan.warning}")
        key = _source_key(version, plan, facts)
        if key == installed:
            return key
        _say_plan(plan, facts)
        wheel = wheel_cache.find_wheel(cache, key)
        if wheel is None:
            wheel = _build_wheel(plan, version, cache, key, log)
    if not pip(["install", "--force-reinstall", "--no-deps", str(wheel)], "installing the runtime", log):
        raise failure("Installing the runtime")
    return key


def check_runtime(key: str) -> None:
    """Warn if the installed runtime does not do here what it was built for; the program copes with less."""
    result, target = _try_runtime(), key.split("-")[1]
    if not result:
        mend = "`CMAKE_ARGS=-DGGML_NATIVE=OFF make setup` builds one with portable instructions"
        say(f"WARNING: the runtime dies on its first token here: {mend}.")
    elif result == "cpu" and target in ("cuda", "hip", "vulkan", "metal"):
        say(f"WARNING: the runtime was built for the GPU ({target}) but reaches none: check its driver.")


def _cache() -> Path:
    for folder in (wheel_cache.cache_folder(os.environ), ROOT / ".cache" / "wheels"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise SetupError("No folder for built wheels can be written: set XDG_CACHE_HOME to one that can.")


def _source_key(version: str, plan: build.BuildPlan, facts: gpu.Facts) -> str:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or "" if sys.platform == "linux" else platform.release()
    parts = [plan.cmake_args, _compiler_version(), platform.machine(), libc]
    parts += [facts.nvcc_codes, facts.hip_version]
    parts += [os.environ.get(name, "") for name in COMPILER_VARIABLES]
    return build.build_key(version, plan.target, _python_tag(), parts)


def _python_tag() -> str:
    return f"cp{sys.version_info[0]}{sys.version_info[1]}"


def _compiler_version() -> str:
    """First line of the C++ compiler's --version; raises SetupError where C or C++ has no compiler."""
    found = []
    for variable, names in (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++"))):
        named = os.environ.get(variable, "").split(" ")[0]
        found.append(next((path for path in map(shutil.which, (named,) if named else names) if path), None))
    if None in found and os.name != "nt":  # on Windows cmake finds Visual Studio by itself
        mend = "xcode-select --install" if sys.platform == "darwin" else "sudo apt install gcc g++ make"
        raise SetupError(f"There is no C and C++ compiler: run `{mend}` and the same command again.")
    if found[1] is None:
        return ""
    done = subprocess.run([found[1], "--version"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0]


def _build_wheel(plan: build.BuildPlan, version: str, cache: Path, key: str, log: TextIO) -> Path:
    """The wheel built by this plan, in the cache; raises SetupError."""
    if shutil.disk_usage(cache).free < _BUILD_BYTES:
        raise SetupError(f"Building the runtime needs 2 GB in {cache}: free some and run the command again.")
    _say_time(plan.cmake_args, version)
    started = time.monotonic()
    with wheel_cache.workshop(cache) as place:
        made, scratch = place / "made", place / "scratch"
        scratch.mkdir()
        jobs = str(build.n_jobs(plan.cmake_args, _n_cores(), _free_memory()))
        variables = {
            "CMAKE_ARGS": plan.cmake_args,
            "CMAKE_BUILD_PARALLEL_LEVEL": os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", jobs),
            "TMPDIR": str(scratch),
        }
        arguments = ["wheel", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python", "-v"]
        arguments += ["-w", str(made), f"llama-cpp-python=={version}"]
        done = pip(arguments, "building", log, variables)
        wheel = wheel_cache.keep_wheel(cache, key, made) if done else None
    if wheel is None:
        without = "`CMAKE_ARGS=-DGGML_NATIVE=OFF make setup` builds for any CPU and no GPU"
        raise failure(
            "Building the runtime",
            "try again with another CMAKE_ARGS" if plan.target == "custom" else without,
        )
    say(f"the runtime is built ({clock(time.monotonic() - started)})")
    return wheel


def _say_plan(plan: build.BuildPlan, facts: gpu.Facts) -> None:
    if plan.target == "custom":
        say(f"the runtime is built with your own CMAKE_ARGS and no others: {plan.cmake_args}")
        say("they stay in force for this .venv until `CMAKE_ARGS= make setup`")
    else:
        where = "" if plan.target == "cpu" else f" and the GPU ({plan.target})"
        say(f"the runtime is for this CPU{where}: {build.cpu_summary(facts.arch, facts.cpuinfo)}")


def _say_time(cmake_args: str, version: str) -> None:
    minutes, cores = build.build_minutes(cmake_args, _n_cores()), _n_cores()
    long = f"about {minutes} minute{'s' * (minutes > 1)} on {cores} core{'s' * (cores > 1)}"
    say(f"compiling llama.cpp (llama-cpp-python {version}) takes {long}; once per machine")


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _free_memory() -> int | None:
    """Bytes to be had without swapping, within this container's limit; None where nothing says so."""
    available = re.search(r"MemAvailable:\s*(\d+)", tail_of(Path("/proc/meminfo")))
    limit = re.match(r"\d+", tail_of(Path("/sys/fs/cgroup/memory.max")))
    found = [int(available.group(1)) * 1024] if available else []
    found += [int(limit.group())] if limit else []
    return min(found, default=None)


def _install_prebuilt(variant: str, version: str, wheel: Path, log: TextIO) -> bool:
    """Whether llama-cpp-python's own wheel, now in .venv, decodes and reaches the GPU; else it is dropped."""
    libraries = list(prebuilt.runtime_libraries(variant))
    if pip(["install", "--force-reinstall", "--no-deps", str(wheel)], "installing the runtime", log) and pip(
        ["install", f"llama-cpp-python=={version}", *libraries], "installing its libraries", log
    ):
        for packages in VENV.glob("lib/python*/site-packages"):
            prebuilt.link_libraries(packages)
        if _try_runtime() == "offload":
            return True
    say(f"the prebuilt wheel for {variant} does not run on this machine, so it is left")
    shutil.rmtree(wheel.parent, ignore_errors=True)
    return False


def _fetch_prebuilt(variant: str, version: str, cache: Path, key: str, log: TextIO) -> Path | None:
    page = prebuilt.read_index(variant)
    address = prebuilt.pick_wheel(page, version, platform.system(), platform.machine().lower())
    if address is None:
        return None
    say(f"taking llama-cpp-python's own prebuilt wheel for {variant}")
    with wheel_cache.workshop(cache) as place:
        arguments = ["download", "--no-deps", "-d", str(place / "made"), address]
        done = pip(arguments, "fetching", log)
        return wheel_cache.keep_wheel(cache, key, place / "made") if done else None


def _try_runtime() -> str:
    """What the installed runtime does, decoding in a process of its own: "offload" or "cpu" with or without a
    GPU in reach, "" if it dies."""
    command = [str(venv_program("python")), "-c", _TRIAL, str(_DEMO)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip().split("\n")[-1] if done.returncode == 0 else ""

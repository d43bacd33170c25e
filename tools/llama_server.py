"""llama.cpp's own server, to measure against: `make llama-server` builds it and prints where it is.

Sources, compiler and arguments are those of the runtime in .venv, so a comparison compares programs and not builds.
Built already: a few dozen milliseconds. Standard library only.
Not covered: Windows, llama-cpp-python's prebuilt wheels (where the runtime is one, the server is still built here).
Exit codes: 0 ready, 1 failed (said in a sentence), 130 interrupted, 143 ended.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TextIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from edgespec.backends.llama_cpp import build, gpu
from tools import runtime, wheel_cache
from tools.environment import LOG, ROOT, SetupError, ensure_venv, failure, pip, say, venv_program
from tools.process import clock, run_logged
from tools.setup import STAMP, Ended, read_stamp

CACHE = ROOT / ".cache" / "llama-server"
_BUILD_BYTES = 1 << 30  # 0.5 GB of sources, as much again while compiling
_NOT_FOR_THE_SERVER = "-DLLAVA_BUILD="  # an option of llama-cpp-python's own
# The page that the server would show is fetched from the network, or built by npm.
_SERVER_ARGS = (
    "-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_UI=OFF "
    "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_OPENSSL=OFF"
)
# Libraries are found beside the program, so that the finished folder can be moved into its place.
_BESIDE = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
_RPATH_ARGS = ("-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON", f"-DCMAKE_INSTALL_RPATH={_BESIDE}")


def server_args(cmake_args: str) -> str:
    """The runtime's cmake arguments made into the server's."""
    kept = [word for word in shlex.split(cmake_args) if not word.startswith(_NOT_FOR_THE_SERVER)]
    return shlex.join([*kept, *_SERVER_ARGS.split()])


def find() -> Path | None:
    """The server built from this checkout's version with the arguments it would be built with now; None if none.

    None too where no compiler is left to tell which one that is.
    """
    try:
        _, _, _, program = _wanted()
    except SetupError:
        return None
    return program if _is_ready(program) else None


def main(argv: list[str]) -> int:
    """Exit code of `tools/llama_server.py` with these arguments."""
    argparse.ArgumentParser(description="Build llama.cpp's server with the runtime's arguments.").parse_args(argv)
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _on_end)
    try:
        print(_ensure())
    except SetupError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"Building llama-server failed on {error.filename}: {error.strerror or error}; mend that and try again.")
        return 1
    except KeyboardInterrupt:
        say("stopped; nothing half-built is left, and the same command starts again")
        return 130
    except Ended:
        return 143
    return 0


def _on_end(number: int, frame: FrameType | None) -> None:
    raise Ended


def _wanted() -> tuple[str, build.BuildPlan, str, Path]:
    """Version of llama-cpp-python, plan with the server's arguments, key and program; raises SetupError."""
    version = runtime.pinned_version((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    facts = gpu.probe()
    plan = build.plan(facts, os.environ.get("CMAKE_ARGS", read_stamp(STAMP).cmake_args))
    plan = replace(plan, cmake_args=server_args(plan.cmake_args))
    key = runtime._source_key(version, plan, facts)
    return version, plan, key, CACHE / key / "bin" / "llama-server"


def _is_ready(program: Path) -> bool:
    return program.is_file() and os.access(program, os.X_OK)


def _ensure() -> Path:
    version, plan, key, program = _wanted()
    if _is_ready(program):
        return program
    # A set-up writes the same log and the same .venv.
    lock = ROOT / ".cache" / "setup.lock"
    with wheel_cache.locked(lock, lambda: say("waiting for another set-up of this checkout")):
        if not _is_ready(program):
            ensure_venv()
            with LOG.open("w", encoding="utf-8") as log:
                _build(version, plan, key, log)
    return program


def _build(version: str, plan: build.BuildPlan, key: str, log: TextIO) -> None:
    """Put the folder of this key into the cache, whole; raises SetupError."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(CACHE).free < _BUILD_BYTES:
        raise SetupError(f"Building llama-server needs 1 GB in {CACHE}: free some and run the command again.")
    minutes, cores = build.build_minutes(plan.cmake_args, runtime._n_cores()), runtime._n_cores()
    say(f"compiling llama-server takes about {minutes} min on {cores} core{'s' * (cores > 1)}; once per checkout")
    started = time.monotonic()
    with wheel_cache.workshop(CACHE) as place:
        cmake = _cmake(log)
        sources = _sources(version, place, log)
        _compile(cmake, sources, place / "build", plan.cmake_args, log)
        made = place / "made"
        made.mkdir()
        os.replace(place / "build" / "bin", made / "bin")
        shutil.rmtree(CACHE / key, ignore_errors=True)
        os.replace(made, CACHE / key)
    say(f"llama-server is built ({clock(time.monotonic() - started)})")


def _cmake(log: TextIO) -> str:
    """The cmake to use; .venv gets one, with ninja, where the machine has none."""
    if found := _program("cmake"):
        return found
    if not pip(["install", "cmake", "ninja"], "fetching cmake", log):
        raise failure("Fetching cmake", "`sudo apt install cmake` is another way to have it")
    return str(venv_program("cmake"))


def _program(name: str) -> str | None:
    own = venv_program(name)
    return shutil.which(name) or (str(own) if own.exists() else None)


def _sources(version: str, place: Path, log: TextIO) -> Path:
    """llama.cpp as this version of llama-cpp-python brings it, unpacked below `place`."""
    arguments = ["download", "--no-deps", "--no-cache-dir", "--no-binary", "llama-cpp-python"]
    fetched = pip([*arguments, "-d", str(place), f"llama-cpp-python=={version}"], "fetching the sources", log)
    archive = next(place.glob("llama_cpp_python-*.tar.gz"), None)
    if not fetched or archive is None:
        raise failure("Fetching the sources of llama.cpp", "run the same command again")
    inside = "/vendor/llama.cpp/"
    with tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):  # Python 3.10 and 3.11 had none at first
            tar.extraction_filter = tarfile.data_filter
        tar.extractall(place, [member for member in tar if inside in f"{member.name}/"])
    archive.unlink()
    return next(place.glob("llama_cpp_python-*/vendor/llama.cpp"))


def _compile(cmake: str, sources: Path, folder: Path, cmake_args: str, log: TextIO) -> None:
    """Program and libraries in folder/bin; raises SetupError."""
    ninja = _program("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    jobs = str(build.n_jobs(cmake_args, runtime._n_cores(), runtime._free_memory()))
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", jobs)
    configure = [cmake, "-S", str(sources), "-B", str(folder), *generator, *shlex.split(cmake_args), *_RPATH_ARGS]
    compiling = [cmake, "--build", str(folder), "--target", "llama-server", "-j", jobs]
    for command, title in ((configure, "configuring"), (compiling, "building")):
        log.write(f"\n==> {title}\n")  # where failure() begins to read
        if run_logged(command, title, log) != 0:
            raise failure("Building llama-server", "run the same command again, or with another CMAKE_ARGS")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

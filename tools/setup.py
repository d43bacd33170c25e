"""Make .venv ready: `python3 tools/setup.py [--dev]`, called by every make target.

Creates the environment, gets a runtime that fits this machine, installs edgespec, and says what it does while
that takes long. Ready already: some dozen milliseconds and not a word. Standard library only.
Exit codes: 0 ready, 1 failed (said in a sentence), 130 interrupted, 143 ended.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
if sys.version_info < (3, 10):  # noqa: UP036 - the sentence is for exactly those who run an older one
    sys.exit("edgespec: Python 3.10 or newer is needed: name one, as in `make PYTHON=python3.11 setup`.")

from edgespec.backends.llama_cpp import build, gpu
from tools import wheel_cache
from tools.environment import LOG, ROOT, VENV, SetupError, ensure_venv, failure, pip, say, venv_program
from tools.runtime import COMPILER_VARIABLES, check_runtime, ensure_runtime

STAMP = VENV / "edgespec-setup.json"


class Ended(BaseException):
    """The system asks this process to end."""


@dataclass(frozen=True)
class Stamp:
    """What .venv holds, as remembered inside it.

    fingerprint  of everything that decides the set-up; "" while it is not complete
    extras       groups of dependencies installed beside the package's own
    runtime      build key of the installed llama-cpp-python
    cmake_args   the user's own, which stay until others are given
    """

    fingerprint: str = ""
    extras: tuple[str, ...] = ()
    runtime: str = ""
    cmake_args: str = ""


def read_stamp(path: Path) -> Stamp:
    """The stamp in a file; an empty one where there is none that can be read."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        extras = tuple(map(str, known["extras"]))
        return Stamp(str(known["fingerprint"]), extras, str(known["runtime"]), str(known["cmake_args"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Stamp()


def is_ready(stamp: Stamp, wanted: str, extras: set[str]) -> bool:
    """Whether the environment of this stamp serves as it is."""
    return stamp.fingerprint == wanted and extras <= set(stamp.extras)


def fingerprint(facts: gpu.Facts, contents: tuple[bytes, ...], words: tuple[str, ...]) -> str:
    """A digest that differs wherever the set-up could come out differently.

    contents  of the files that decide it; words: environment, place and Python that decide it.
    Of cpuinfo only the flags count: the rest (clock rates) differs from one reading to the next.
    """
    machine = (facts.system, facts.arch, sorted(build.cpu_flags(facts.cpuinfo)), facts.gpus, facts.vulkan)
    toolkits = (facts.cuda_root, facts.hip_root, facts.hip_version)
    parts = [*contents, *(word.encode() for word in words), repr((machine, toolkits)).encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def fingerprint_now(cmake_args: str) -> str:
    """The fingerprint of this checkout on this machine with these arguments; starts no program."""
    folder = Path(build.__file__).parent
    files = (ROOT / "pyproject.toml", folder / "build.py", folder / "gpu.py")
    compilers = [os.environ.get(name, "") for name in COMPILER_VARIABLES]
    words = (cmake_args, *compilers, str(ROOT), f"{sys.version_info[0]}.{sys.version_info[1]}")
    return fingerprint(gpu.probe(ask=False), tuple(path.read_bytes() for path in files), words)


def set_up(stamp: Stamp, wanted: str, extras: set[str], cmake_args: str) -> None:
    """Bring .venv to `wanted`; raises SetupError. Until the last step its stamp says that it is not ready."""
    if ensure_venv():
        stamp = Stamp()
    everything = tuple(sorted(extras | set(stamp.extras)))
    _write_stamp(Stamp("", stamp.extras, "", cmake_args))
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        runtime = ensure_runtime(stamp.runtime, cmake_args, log)
        _write_stamp(Stamp("", stamp.extras, runtime, cmake_args))
        say("installing edgespec and what it needs")
        package = f"{ROOT}[{','.join(everything)}]" if everything else str(ROOT)
        if not pip(["install", "-e", package], "installing", log):
            raise failure("Installing edgespec")
    if runtime != stamp.runtime:
        check_runtime(runtime)
    _write_stamp(Stamp(wanted, everything, runtime, cmake_args))
    say("ready")


def _write_stamp(stamp: Stamp) -> None:
    STAMP.write_text(json.dumps(asdict(stamp)), encoding="utf-8")


def _on_end(number: int, frame: FrameType | None) -> None:
    raise Ended


def main(argv: list[str]) -> int:
    """Exit code of `tools/setup.py` with these arguments."""
    parser = argparse.ArgumentParser(description="Make .venv ready for edgespec.")
    parser.add_argument("--dev", action="store_true", help="also what tests and linters need")
    extras = {"dev"} if parser.parse_args(argv).dev else set()
    stamp = read_stamp(STAMP)
    cmake_args = os.environ.get("CMAKE_ARGS", stamp.cmake_args)
    wanted = fingerprint_now(cmake_args)
    if is_ready(stamp, wanted, extras) and venv_program("edgespec").exists():
        return 0
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _on_end)
    lock = ROOT / ".cache" / "setup.lock"
    try:
        with wheel_cache.locked(lock, lambda: say("waiting for another set-up of this checkout")):
            stamp = read_stamp(STAMP)
            if not is_ready(stamp, wanted, extras) or not venv_program("edgespec").exists():
                set_up(stamp, wanted, extras, cmake_args)
    except SetupError as error:
        say(str(error))
        return 1
    except OSError as error:
        say(f"Setting up failed on {error.filename}: {error.strerror or error}; mend that and try again.")
        return 1
    except KeyboardInterrupt:
        say("stopped; nothing half-built is left, and the same command starts again")
        return 130
    except Ended:
        return 143
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

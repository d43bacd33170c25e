"""The shared library itself: imported once, its log captured, its build named.

llama-cpp-python's module is pure ctypes; calls release the interpreter lock. Not covered: models and contexts.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections import deque
from pathlib import Path

# Read by the OpenMP runtime when the library loads. Its default lets a thread that waits for its partner spin for
# about a millisecond: beside another busy program a pass of the demo took 40 times as long (benchmarks/LOG.md).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")

import llama_cpp
import llama_cpp.llama_cpp as lib

_LOG_LINES = 400
_LEVEL_DEBUG, _LEVEL_ERROR, _LEVEL_CONTINUE = 1, 4, 5
_ready = False


class Log:
    """The runtime's last log lines, kept instead of printed over the user's screen."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=_LOG_LINES)
        self._partial = ""
        self._level = 0

    def feed(self, level: int, text: bytes) -> None:
        if level != _LEVEL_CONTINUE:
            self._level = level
        *lines, self._partial = (self._partial + text.decode("utf-8", "replace")).split("\n")
        if self._level != _LEVEL_DEBUG:
            self._lines.extend((self._level, line) for line in lines if line.strip())

    def clear(self) -> None:
        self._lines.clear()

    def lines(self) -> list[str]:
        """What was said since the last clear, as far as it is kept."""
        return [line for _, line in self._lines]

    def reason(self) -> str:
        """The first error since the last clear, or an empty string; later ones only repeat that loading failed."""
        return next((line.strip() for level, line in self._lines if level == _LEVEL_ERROR), "")


log = Log()


@lib.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _user: ctypes.c_void_p) -> None:
    log.feed(level, text or b"")


def start() -> None:
    """Take over the log and initialise the library; idempotent."""
    global _ready
    if not _ready:
        os.environ.setdefault("GGML_NO_BACKTRACE", "1")  # an abort says why in one line and starts no debugger
        lib.llama_log_set(_on_log, ctypes.c_void_p(0))
        lib.llama_backend_init()
        _ready = True


def supports_gpu() -> bool:
    return bool(lib.llama_supports_gpu_offload())


def ggml(stem: str) -> ctypes.CDLL:
    """A library of ggml ("ggml", "ggml-base") that came with the runtime's; it is loaded already and only found again.

    Raises OSError where there is none of that name.
    """
    folder = Path(os.environ.get("LLAMA_CPP_LIB_PATH") or Path(lib.__file__).parent / "lib")
    names = [folder / name for name in (f"lib{stem}.so", f"lib{stem}.dylib", f"{stem}.dll")]
    return ctypes.CDLL(str(next((name for name in names if name.exists()), names[0])))


def version() -> str:
    """Of llama-cpp-python, whether it was installed or lies on the path."""
    return str(llama_cpp.__version__)


def n_cores() -> int:
    """Processors this process may run on; hyper-threads counted, as the scheduler does."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        return os.cpu_count() or 1


def build_id() -> str:
    """A short name for this very build on this very processor: what the self-test's answers hold for."""
    folder = Path(lib.__file__).parent / "lib"
    override = os.environ.get("LLAMA_CPP_LIB_PATH")
    files = sorted(Path(override or folder).glob("*"))
    stamp = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    text = repr((lib.llama_version(), lib.llama_print_system_info(), cpu_name(), n_cores(), stamp))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cpu_name() -> str:
    """The processor as the system calls it; an empty string where it does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        import platform

        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

"""llama-cpp-python's own prebuilt wheels: which one fits, where it is, and the CUDA libraries it needs.

Used where a GPU is present and its toolkit is not. Such a wheel is only kept after it has decoded on this
machine (tools/runtime.py), since it was compiled for another one.
"""

from __future__ import annotations

import re
import threading
import urllib.request
from pathlib import Path

_INDEX = "https://abetlen.github.io/llama-cpp-python/whl/{variant}/llama-cpp-python/"


def pick_wheel(page: str, version: str, system: str, arch: str) -> str | None:
    """Address of the wheel of exactly this version for this system on an index page; None if it has none."""
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(arch, arch)
    platform = {
        "Linux": rf"(?:many)?linux\w*_{machine}",
        "Windows": {"x86_64": "win_amd64"}.get(machine, "none"),
        "Darwin": r"macosx_\w+_arm64",
    }.get(system, "none")
    name = rf"llama_cpp_python-{re.escape(version)}-py3-none-(?:\w+\.)*{platform}(?:\.\w+)*\.whl"
    found = re.search(rf'href="([^"]*/{name})(?:#[^"]*)?"', page)
    return found.group(1) if found else None


def read_index(variant: str, seconds: float = 5.0) -> str:
    """The page of one wheel index; "" if it does not answer in time. Never raises."""
    answer: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(_INDEX.format(variant=variant), timeout=seconds) as reply:
                answer.append(reply.read().decode(errors="replace"))
        except (OSError, ValueError):
            pass

    asking = threading.Thread(target=ask, daemon=True)  # name look-ups have no time limit of their own
    asking.start()
    asking.join(seconds)
    return answer[0] if answer else ""


def runtime_libraries(variant: str) -> tuple[str, ...]:
    """Requirements that bring the CUDA libraries which a wheel of this variant links to but does not hold."""
    found = re.fullmatch(r"cu(\d\d)(\d)", variant)
    if not found:
        return ()
    major, minor = found.groups()
    names = ("nvidia-cuda-runtime", "nvidia-cublas")
    if major == "11":
        return tuple(f"{name}-cu11" for name in names)
    suffix = "" if int(major) >= 13 else f"-cu{major}"
    return tuple(f"{name}{suffix}=={major}.{minor}.*" for name in names)


def link_libraries(site_packages: Path) -> int:
    """Make the CUDA libraries of site-packages/nvidia findable beside llama.cpp's own; how many were linked.

    llama.cpp's libraries search their own folder ($ORIGIN), so a link there needs no environment variable.
    """
    place = site_packages / "llama_cpp" / "lib"
    n_linked = 0
    for library in sorted((site_packages / "nvidia").glob("*/lib/lib*.so.*")):
        link = place / library.name
        if not link.exists():
            link.unlink(missing_ok=True)
            link.symlink_to(library)
            n_linked += 1
    return n_linked

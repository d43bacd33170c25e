"""What the output of `pip wheel -v` says: how far a build is, and why it failed. Pure functions over text."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(r"^\s*\[\s*(\d+)/(\d+)\]\s")
_PERCENT = re.compile(r"^\s*\[\s*(\d+)%\]\s")  # make, where ninja is not to be had
_PHASES = (
    (r"\s*Downloading llama_cpp_python", "downloading the sources"),
    (r"\s*Installing build dependencies: started", "fetching the build tools"),
    (r"\s*\*\*\* Configuring CMake", "configuring"),
    (r"\s*\*\*\* Making wheel", "packing"),
    (r"Collecting ", "downloading"),  # indented, it is about the build tools
    (r"Installing collected packages", "unpacking"),
)
_MEANINGFUL = re.compile(r"error[: ]|\bERROR\b|FAILED|undefined reference|Killed|No space left", re.IGNORECASE)
_NOISE = re.compile(r"Looking in (indexes|links)|is neither a file|subprocess-exited-with-error|note: |Retrying ")
_HOSTS = re.compile(r"\b(?:https?|file)://\S+")
_CAUSES = (
    (
        r"Temporary failure in name resolution|NewConnectionError|Network is unreachable|NameResolutionError|"
        r"ConnectTimeoutError|Failed to establish a new connection|ProxyError",
        "the package index cannot be reached: connect to the network and run the same command again",
    ),
    (
        r"No space left on device",
        "the disk is full: free about 2 GB and run the same command again",
    ),
    (
        r"Killed signal terminated program|cannot allocate memory|out of memory",
        "the compiler ran out of memory: run again with `CMAKE_BUILD_PARALLEL_LEVEL=1` before the command",
    ),
    (
        r"No CMAKE_C(XX)?_COMPILER could be found|CMAKE_C(XX)?_COMPILER not set",
        "a C and C++ compiler is missing: run `sudo apt install gcc g++ make` and the same command again",
    ),
    (
        r"Could not find a version that satisfies|No matching distribution found",
        "the package index has no fitting package: check the network, and the index that pip is set to use",
    ),
)


@dataclass(frozen=True)
class Step:
    """So many of the build's steps are done."""

    done: int
    total: int


def parse_step(line: str) -> Step | None:
    """The step that a line of ninja ("[22/193] ...") or make ("[ 12%] ...") reports; None of other lines."""
    if found := _STEP.match(line):
        done, total = int(found.group(1)), int(found.group(2))
        return Step(done, total) if 0 <= done <= total and total > 0 else None
    if found := _PERCENT.match(line):
        return Step(min(int(found.group(1)), 100), 100)
    return None


def parse_phase(line: str) -> str | None:
    """What the build begins to do with this line, in words; None if nothing new."""
    return next((words for pattern, words in _PHASES if re.match(pattern, line)), None)


def further(known: Step | None, new: Step | None) -> Step | None:
    """The step to show after `known`: never backwards, nor the small counts of a build within the build."""
    if new is None or (known is not None and (new.total, new.done) < (known.total, known.done)):
        return known
    return new


def last_meaningful(log: str, n_lines: int = 8) -> list[str]:
    """The last lines of the log that tell of a failure (else its very last), cut short, without addresses."""
    lines = [line.strip() for line in log.splitlines() if line.strip() and not _NOISE.search(line)]
    telling = [line for line in lines if _MEANINGFUL.search(line) and not parse_step(line)]
    distinct = list(dict.fromkeys(telling or lines))
    return [_HOSTS.sub("<address>", line)[:160] for line in distinct[-n_lines:]]


def cause(log: str) -> str | None:
    """Why it failed and what to do about it, as a clause, where that is one of the common cases."""
    tail = log[-200_000:]
    return next((clause for pattern, clause in _CAUSES if re.search(pattern, tail, re.IGNORECASE)), None)

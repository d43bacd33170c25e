"""What every benchmark shares: naming the machine, pairing, and writing results/*.json.

These machines are shared and noisy: variants are interleaved and compared by paired ratios with their spread.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgespec.backends.llama_cpp import devices, runtime
from edgespec.bench.figures import paired_median as paired_median
from edgespec.bench.figures import paired_ratio as paired_ratio

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, devices that the runtime uses, versions; nothing that names a person or a path."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor()
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        **({"devices": found} if (found := [device.description for device in devices.devices()]) else {}),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "llama-cpp-python": runtime.version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """The commit measured, with + where the tree had changes; as tools/pack_gpu.sh noted it where git knows none."""
    packed = ROOT / ".gpu" / "commit"
    if packed.exists() and not (ROOT / ".git").exists():
        return packed.read_text().strip()
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    dirty = subprocess.run(["git", "status", "--porcelain", "edgespec"], cwd=ROOT, capture_output=True, text=True)
    return head.strip() + ("+" if dirty.stdout.strip() else "")


# What was measured is what stood here when the script started.
START: dict[str, Any] = {"commit": commit(), "date": time.strftime("%Y-%m-%d"), "machine": machine()}


def _without_place(word: str) -> str:
    """A word of the command without the folders of this machine."""
    word = word.replace(f"{ROOT}/", "")
    return Path(word).name if os.path.isabs(word) else word


def write(name: str, result: dict[str, Any]) -> Path:
    """results/NAME.json with commit, machine, date and command in front; paths as from the repository's root."""
    RESULTS.mkdir(exist_ok=True)
    command = " ".join(["python", *map(_without_place, sys.argv)])
    head = {**START, "command": command}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({**head, **result}, indent=1).replace(f"{ROOT}/", "") + "\n")
    return path


def copy_bandwidth(n_bytes: int = 1 << 29, n_threads: int = 2, n_repeats: int = 7) -> float:
    """Bytes a second that n_threads move when they copy a block far larger than the caches, reads plus writes."""
    from concurrent.futures import ThreadPoolExecutor

    parts = [
        (np.ones(n_bytes // n_threads, np.uint8), np.zeros(n_bytes // n_threads, np.uint8)) for _ in range(n_threads)
    ]
    best = np.inf
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(n_repeats):
            start = time.perf_counter()
            list(pool.map(lambda p: np.copyto(p[1], p[0]), parts))
            best = min(best, time.perf_counter() - start)
    return 2 * n_bytes / best

"""What the runtime says its buffers take, read from its log: the only place it tells (its breakdown is a C++ map).

Source: src/llama-model.cpp (load_tensors), llama-kv-cache.cpp, llama-memory-recurrent.cpp, llama-context.cpp. The log
rounds to 0.01 MiB. Not covered: buffers that the processor's backend makes while it computes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_BUFFER = re.compile(r"(\S+) +(model|output|compute|KV|RS) buffer size = +([\d.]+) MiB")
_CACHE = re.compile(r"^llama_(kv_cache|memory_recurrent)\S*: size = +([\d.]+) MiB")
_MIB = 1 << 20


@dataclass(frozen=True)
class Figures:
    """Bytes by buffer name ("CPU_Mapped", "CPU_REPACK", "CUDA0") for weights and compute buffers; caches and output
    buffer in all. After a load that allocates nothing, `weights` is empty."""

    weights: Mapping[str, int]
    compute: Mapping[str, int]
    kv_bytes: int
    recurrent_bytes: int
    output_bytes: int


def read(lines: Iterable[str]) -> Figures:
    """The figures in the log of one model and one context."""
    weights, compute, output, kv, state = Counter[str](), Counter[str](), 0, 0, 0
    for line in lines:
        if cache := _CACHE.match(line):
            n_bytes = round(float(cache[2]) * _MIB)
            kv += n_bytes if cache[1] == "kv_cache" else 0
            state += n_bytes if cache[1] == "memory_recurrent" else 0
        elif found := _BUFFER.search(line):
            n_bytes = round(float(found[3]) * _MIB)
            if found[2] == "model" and n_bytes:
                weights[found[1]] += n_bytes
            elif found[2] == "compute":
                compute[found[1]] += n_bytes
            elif found[2] == "output":
                output += n_bytes
    return Figures(dict(weights), dict(compute), kv, state, output)

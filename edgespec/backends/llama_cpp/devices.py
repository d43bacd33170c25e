"""Devices as ggml sees them (CUDA, HIP, Metal, Vulkan alike): names, memory, and whether they share the processor's.

Source: ggml/include/ggml-backend.h. Not covered: which process holds how much of a device; drivers differ on that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import llama_cpp.llama_cpp as lib

from edgespec.backends.llama_cpp import runtime

_GPU, _IGPU = 1, 2  # enum ggml_backend_dev_type


@dataclass(frozen=True)
class Device:
    """name as the runtime calls it ("CUDA0"), bytes free and in all; shared: its memory is the processor's own."""

    name: str
    description: str
    free_bytes: int
    total_bytes: int
    shared: bool


def devices() -> tuple[Device, ...]:
    """Every graphics device, in the runtime's order, with what is free on it now; () where there is none, or where the
    build knows none."""
    if not runtime.supports_gpu():
        return ()
    runtime.start()
    return tuple(_read(pointer) for pointer in _graphics())


def repacked_types() -> frozenset[str]:
    """Weight types of which this build keeps a rearranged copy on this processor.

    Source: ggml/src/ggml-cpu/repack.cpp, ggml_repack_get_optimal_repack_type.
    """
    said = lib.llama_print_system_info().decode()
    has = {
        name.split(":")[-1].strip() for name, _, value in (f.partition("=") for f in said.split("|")) if "1" in value
    }
    found: set[str] = set()
    if "REPACK" not in has:
        return frozenset()
    if "AVX2" in has:
        found |= {"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}
    if "AVX512" in has:
        found.add("Q2_K")
    if "DOTPROD" in has or "MATMUL_INT8" in has:
        found |= {"Q4_0", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "MXFP4", "Q8_0"}
    return frozenset(found)


def _graphics() -> Iterator[int]:
    ggml = _library()
    for index in range(ggml.ggml_backend_dev_count()):
        pointer = ggml.ggml_backend_dev_get(index)
        if ggml.ggml_backend_dev_type(pointer) in (_GPU, _IGPU):
            yield pointer


def _read(pointer: int) -> Device:
    ggml, free, total = _library(), ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=ggml.ggml_backend_dev_name(pointer).decode("utf-8", "replace"),
        description=ggml.ggml_backend_dev_description(pointer).decode("utf-8", "replace"),
        free_bytes=free.value,
        total_bytes=total.value,
        shared=ggml.ggml_backend_dev_type(pointer) == _IGPU,
    )


@cache
def _library() -> ctypes.CDLL:
    ggml = runtime.ggml("ggml")
    pointer, size = ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)
    for name, result, arguments in (
        ("count", ctypes.c_size_t, []),
        ("get", pointer, [ctypes.c_size_t]),
        ("type", ctypes.c_int, [pointer]),
        ("name", ctypes.c_char_p, [pointer]),
        ("description", ctypes.c_char_p, [pointer]),
        ("memory", None, [pointer, size, size]),
    ):
        function = getattr(ggml, f"ggml_backend_dev_{name}")
        function.restype, function.argtypes = result, arguments
    return ggml

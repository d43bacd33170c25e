"""How weights are loaded, as the runtime takes it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import llama_cpp.llama_cpp as lib

from edgespec.backends.llama_cpp import runtime

ALL_LAYERS = 999
_EXPERTS = rb"\.ffn_(up|down|gate|gate_up)_(ch|)exps"


@dataclass(frozen=True)
class LoadOptions:
    """How weights are loaded; the self-test finds which of them this host survives, a plan where they lie.

    extra_buffers   repacked weights: faster passes
    exact_holds     the self-test found `ContextSpec.exact` to hold here
    n_gpu_layers    repeating layers on devices, from the last one; one more: the head too
    tensor_split    share of them by device; (): as the runtime divides them
    experts_on_cpu  a mixture's experts stay on the processor
    """

    extra_buffers: bool = True
    exact_holds: bool = True
    n_gpu_layers: int = ALL_LAYERS
    tensor_split: tuple[float, ...] = ()
    experts_on_cpu: bool = False


class _Override(ctypes.Structure):
    """llama_model_tensor_buft_override of include/llama.h."""

    _fields_ = (("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p))


@dataclass(frozen=True)
class Params:
    """What llama_model_load_from_file takes, with the arrays that it points to."""

    struct: lib.llama_model_params
    kept: tuple[object, ...]


def model_params(options: LoadOptions, *, allocate: bool = True) -> Params:
    """allocate False: metadata alone, buffers are only counted (the file must not be mapped then, or it aborts)."""
    params = lib.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.extra_buffers
    kept: list[object] = []
    if options.tensor_split:
        shares = (ctypes.c_float * lib.llama_max_devices())(*options.tensor_split)
        params.tensor_split = ctypes.cast(shares, type(params.tensor_split))
        kept.append(shares)
    if options.experts_on_cpu:
        overrides = (_Override * 2)(_Override(_EXPERTS, _cpu_buffer_type()), _Override(None, None))
        params.tensor_buft_overrides = ctypes.addressof(overrides)
        kept.append(overrides)
    if not allocate:
        params.no_alloc = True
        params.load_mode = lib.LLAMA_LOAD_MODE_NONE
    return Params(params, tuple(kept))


def _cpu_buffer_type() -> int:
    ggml = runtime.ggml("ggml-base")
    ggml.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
    return int(ggml.ggml_backend_cpu_buffer_type())

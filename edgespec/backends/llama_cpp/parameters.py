"""Opening the runtime's own context for a spec (include/llama.h, llama_context_params).

Not covered: what is evaluated in it (context.py), sizes (dimensions.py).
"""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp.llama_cpp as lib

from edgespec.backends.llama_cpp.dimensions import Dimensions
from edgespec.backends.llama_cpp.runtime import log, n_cores
from edgespec.errors import DoesNotFit
from edgespec.types import ContextSpec

KV_TYPE = {"f16": lib.GGML_TYPE_F16, "q8_0": lib.GGML_TYPE_Q8_0, "q4_0": lib.GGML_TYPE_Q4_0}


def open_context(model: ctypes.c_void_p, spec: ContextSpec, dims: Dimensions) -> ctypes.c_void_p:
    log.clear()
    ptr = lib.llama_init_from_model(model, context_params(spec, dims))
    if not ptr:
        raise DoesNotFit(
            f"the runtime could not open a context of {spec.n_ctx} tokens with {spec.kv_type} KV: "
            f"{log.reason() or 'no reason given'}; try a smaller --context"
        )
    return ptr  # type: ignore[no-any-return]


def context_params(spec: ContextSpec, dims: Dimensions) -> Any:
    """llama_context_params for it."""
    params = lib.llama_context_default_params()
    params.n_ctx = dims.n_cells
    params.n_batch = params.n_ubatch = dims.n_batch
    params.n_seq_max = dims.n_seq_max
    params.n_outputs_max = dims.n_outputs
    params.n_threads = params.n_threads_batch = spec.n_threads or n_cores()
    params.type_k = params.type_v = KV_TYPE[spec.kv_type]
    params.kv_unified = True
    params.swa_full = True  # a sliding window without it cannot be rolled back
    params.no_perf = True
    quantised = spec.kv_type != "f16"
    if spec.exact or quantised:
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
    return params

"""Compute buffers of architectures without a formula: a surface through what the runtime says of a few contexts.

Within a cache type the buffer grows with the tokens of a pass, with those times the cells they look back on, and with
the rows that get logits (docs/memory.md). Not covered: the configuration that is chosen in the end, whose figure is
asked for itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.gguf.shape import Shape
from edgespec.memory.measure import by_device, runtime_figures
from edgespec.memory.predict import widest
from edgespec.types import KV_TYPES, ContextSpec

_CONTEXTS, _WIDTHS, _ROWS = (512, 4096, 16384), (32, 256, 512), (2, 16, 64)

Compute = Callable[[ContextSpec], Mapping[str, int]]


@dataclass(frozen=True)
class Surface:
    """Bytes by device and cache type: factors of _terms, and the most that the runtime said beyond them."""

    shape: Shape
    factors: Mapping[tuple[str, str], tuple[float, ...]]
    margin: Mapping[tuple[str, str], float]

    def __call__(self, spec: ContextSpec) -> dict[str, int]:
        terms = _terms(self.shape, spec)
        here = {device: kv for device, kv in self.factors if kv == spec.kv_type}
        return {
            device: max(math.ceil(np.dot(terms, self.factors[device, kv]) + self.margin[device, kv]), 0)
            for device, kv in here.items()
        }


def surface(path: Path, shape: Shape, options: LoadOptions, base: ContextSpec) -> Surface:
    """Through 27 contexts of each cache type, asked in one go and remembered; base: what they share (--exact).

    Raises BackendError where the runtime gives no figures.
    """
    grid = [
        replace(base, n_ctx=n_ctx, n_ubatch=width, max_nodes=rows, max_leaves=rows, kv_type=kv)
        for kv in KV_TYPES
        for n_ctx in _CONTEXTS
        for width in _WIDTHS
        for rows in _ROWS
    ]
    said = [by_device(f.compute) for f in runtime_figures(path, options, grid, trees=not shape.recurrent)]
    factors, margin = {}, {}
    for device in sorted({device for figure in said for device in figure}):
        for kv in KV_TYPES:
            here = [i for i, spec in enumerate(grid) if spec.kv_type == kv]
            terms = np.array([_terms(shape, grid[i]) for i in here])
            n_bytes = np.array([said[i].get(device, 0) for i in here], np.float64)
            found, *_ = np.linalg.lstsq(terms, n_bytes, rcond=None)
            factors[device, kv] = tuple(found.tolist())
            margin[device, kv] = float(np.max(n_bytes - terms @ found))
    return Surface(shape, factors, margin)


def _terms(shape: Shape, spec: ContextSpec) -> tuple[float, ...]:
    reserved = widest(shape, dimensions(spec, trees=not shape.recurrent), spec.kv_type)
    tokens, cells = float(reserved.n_tokens), float(reserved.n_cells)
    return 1.0, tokens, tokens * cells, cells, float(reserved.n_rows)

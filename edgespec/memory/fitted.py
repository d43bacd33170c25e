"""Compute buffers of architectures without a formula: a surface through what the runtime says of a few contexts.

A graph is widest either in its layers, where it grows with the tokens of a pass and with those times the cells they
look back on, or at its end, where the rows that get logits stand alone (docs/memory.md). What caches take a cell is the
runtime's word too: architectures keep more than keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.figures import Figures
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.gguf.shape import Shape
from edgespec.memory.measure import by_device, runtime_figures
from edgespec.memory.predict import widest
from edgespec.types import KV_TYPES, ContextSpec

_CONTEXTS, _WIDTHS, _ROWS = (512, 4096, 16384), (32, 256, 512), (2, 16, 64)
_FLOAT = 4
# A graph that is so much wider than its layers is widest at its end.
_WIDER = 1.02


@dataclass(frozen=True)
class Face:
    """One device and cache type. factors: of _terms, in the layers; end: bytes beside the logits, None where they are
    elsewhere; margin: the most that the runtime said beyond both."""

    factors: tuple[float, ...]
    end: float | None
    margin: float

    def bytes_of(self, terms: tuple[float, ...], logits_bytes: float) -> float:
        layers = float(np.dot(terms, self.factors))
        return max(layers, logits_bytes + self.end if self.end is not None else 0.0, 0.0)


@dataclass(frozen=True)
class Surface:
    """faces by device and cache type; cell_bytes: of all caches together, by cache type."""

    shape: Shape
    faces: Mapping[tuple[str, str], Face]
    cell_bytes: Mapping[str, float]

    def __call__(self, spec: ContextSpec) -> dict[str, int]:
        """Bytes of the compute buffer by device, never below a figure it was made from."""
        terms, logits = _terms(self.shape, spec), _logits_bytes(self.shape, spec)
        faces = {device: face for (device, kv), face in self.faces.items() if kv == spec.kv_type}
        return {device: math.ceil(face.bytes_of(terms, logits) + face.margin) for device, face in faces.items()}


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
    figures = runtime_figures(path, options, grid, trees=not shape.recurrent)
    said = [by_device(f.compute) for f in figures]
    faces, cells = {}, {}
    for kv in KV_TYPES:
        here = [i for i, spec in enumerate(grid) if spec.kv_type == kv]
        specs = [grid[i] for i in here]
        cells[kv] = _cell_bytes(shape, specs, [figures[i] for i in here])
        for device in sorted({device for figure in said for device in figure}):
            faces[device, kv] = _face(shape, specs, [said[i].get(device, 0) for i in here])
    return Surface(shape, faces, cells)


def _face(shape: Shape, specs: list[ContextSpec], said: list[int]) -> Face:
    """The layers are told by contexts of the fewest rows, the end by those of the most rows and the fewest tokens."""
    few = [i for i, spec in enumerate(specs) if spec.max_nodes == _ROWS[0]]
    terms = np.array([_terms(shape, specs[i]) for i in few])
    factors, *_ = np.linalg.lstsq(terms, np.array([said[i] for i in few], np.float64), rcond=None)
    face = Face(tuple(factors.tolist()), None, 0.0)
    narrow = [i for i, spec in enumerate(specs) if (spec.max_nodes, spec.n_ubatch) == (_ROWS[-1], _WIDTHS[0])]
    wider = [i for i in narrow if said[i] > _WIDER * face.bytes_of(_terms(shape, specs[i]), 0.0)]
    beyond = min((said[i] - _logits_bytes(shape, specs[i]) for i in wider), default=-1.0)
    face = replace(face, end=beyond if beyond >= 0 else None)
    guesses = [face.bytes_of(_terms(shape, spec), _logits_bytes(shape, spec)) for spec in specs]
    return replace(face, margin=max(n - guess for n, guess in zip(said, guesses, strict=True)))


def _cell_bytes(shape: Shape, specs: list[ContextSpec], figures: list[Figures]) -> float:
    n_cells = [dimensions(spec, trees=not shape.recurrent).n_cells for spec in specs]
    return max(figure.kv_bytes / n for figure, n in zip(figures, n_cells, strict=True))


def _terms(shape: Shape, spec: ContextSpec) -> tuple[float, ...]:
    reserved = widest(shape, dimensions(spec, trees=not shape.recurrent), spec.kv_type)
    tokens, cells = float(reserved.n_tokens), float(reserved.n_cells)
    return 1.0, tokens, tokens * cells, cells


def _logits_bytes(shape: Shape, spec: ContextSpec) -> float:
    reserved = widest(shape, dimensions(spec, trees=not shape.recurrent), spec.kv_type)
    return float(_FLOAT * shape.n_vocab * reserved.n_rows)

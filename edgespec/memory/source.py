"""A model's file as a planner sees it. Not covered: what of it decides bytes (gguf/shape.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgespec.errors import BadSetting
from edgespec.gguf.inspect import inspect
from edgespec.gguf.shape import Shape, read_shape


@dataclass(frozen=True)
class Source:
    """A model's file as a planner sees it."""

    name: str
    path: Path
    quantisation: str
    n_ctx_train: int
    shape: Shape


def read_source(name: str, path: Path) -> Source:
    """Raises what gguf.inspect and gguf.shape raise."""
    file, shape = inspect(path), read_shape(path)
    if not file.n_ctx_train:
        raise BadSetting(f"{path} does not say for how long a context it was trained; get a complete .gguf file")
    return Source(name, path, file.quantisation, file.n_ctx_train, shape)

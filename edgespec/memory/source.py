"""A model's file as a planner sees it. Not covered: what of it decides bytes (gguf/shape.py)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgespec.errors import BadSetting
from edgespec.gguf.header import read_header
from edgespec.gguf.inspect import inspect
from edgespec.gguf.original import find_original
from edgespec.gguf.shape import Shape, read_shape
from edgespec.gguf.trimmed import Trim


@dataclass(frozen=True)
class Source:
    """A model's file as a planner sees it.

    mask_token_id  what it was taught to fill in, so that it can draft in parallel; None: it was not
    rows_by        what the rows of a trimmed drafter's head were chosen by, "" for one with all of them
    """

    name: str
    path: Path
    quantisation: str
    n_ctx_train: int
    shape: Shape
    mask_token_id: int | None = None
    rows_by: str = ""


def read_source(name: str, path: Path, mask_token_id: int | None = None) -> Source:
    """Raises what gguf.inspect and gguf.shape raise, BadSetting; what gguf.original raises, for a trimmed drafter whose
    original is gone or another; mask_token_id: for a file that names none itself."""
    file, shape = inspect(path), read_shape(path)
    if file.trim is not None:
        find_original(path, read_header(path), file.trim)
    if not file.n_ctx_train:
        raise BadSetting(f"{path} does not say for how long a context it was trained; get a complete .gguf file")
    mask = mask_token_id if file.mask_token_id is None else file.mask_token_id
    if mask is not None and not 0 <= mask < file.n_vocab:
        raise BadSetting(
            f"the mask token of {path} is {mask}, but its vocabulary has {file.n_vocab} tokens; "
            "correct tokenizer.ggml.mask_token_id in the file, or mask_token_id in models.toml"
        )
    rows_by = _rows_by(file.trim) if file.trim else ""
    return Source(name, path, file.quantisation, file.n_ctx_train, shape, mask, rows_by)


def _rows_by(trim: Trim) -> str:
    share = "" if trim.coverage is None else f"{100 * trim.coverage:.1f} % of like text, "
    return f"{share}by {trim.counts}"

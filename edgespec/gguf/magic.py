"""What a path that is not a GGUF file seems to be, from its kind and its first bytes.

Not covered: proof; the words are for the person who has to find the right file.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgespec.errors import ModelNotFound

MAGIC = b"GGUF"

_GET_GGUF = "get the model's .gguf file instead"
_BY_PREFIX: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint", _GET_GGUF),
    (b"\x80\x02", "a Python pickle, perhaps a PyTorch checkpoint", _GET_GGUF),
    (b"\x80\x04", "a Python pickle, perhaps a PyTorch checkpoint", _GET_GGUF),
    (b"\x89HDF", "an HDF5 file", _GET_GGUF),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"version https://git-lfs", "a Git LFS pointer without the data", "fetch the data with `git lfs pull`"),
    (b"lmgg", "an old GGML model", _GET_GGUF),
    (b"tjgg", "an old GGML model", _GET_GGUF),
    (b"fmgg", "an old GGML model", _GET_GGUF),
    (b"algg", "an old GGML adapter", _GET_GGUF),
)


def describe(head: bytes) -> str:
    """A predicate for `<path> ...` that ends with what to do; head is the first few hundred bytes."""
    if not head:
        return "is empty (0 bytes); download it again"
    if len(head) < 4 and MAGIC.startswith(head):
        return f"is cut short after {len(head)} bytes; download it again"
    if not any(head):
        return "holds only zeros where a GGUF begins: its download was not finished; download it again"
    for prefix, what, todo in _BY_PREFIX:
        if head.startswith(prefix):
            return f"is {what}, not a GGUF model; {todo}"
    if head[8:10] == b'{"':
        return f"is a safetensors file, not a GGUF model; {_GET_GGUF}"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page, not a GGUF model; download the file itself, not the page about it"
    if text.startswith((b"{", b"[")):
        return f"is JSON text, not a GGUF model; {_GET_GGUF}"
    return f"is not a GGUF model (it begins with {head[:4]!r}); {_GET_GGUF}"


def missing(path: Path) -> str:
    """The sentence for a path that leads to nothing."""
    if os.path.islink(path):
        return f"{path} is a link to a file that is gone ({os.readlink(path)}); download the model again"
    return f"there is no file {path}; check the path"


def check_regular(path: Path) -> None:
    """Raise ModelNotFound for whatever can be opened but is no file (a directory, a pipe, a device)."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        inside = sorted(p.name for p in path.glob("*.gguf"))
        hint = f", for example {path / inside[0]}" if inside else ""
        raise ModelNotFound(f"{path} is a directory; name the .gguf file itself{hint}")
    if not stat.S_ISREG(mode):
        raise ModelNotFound(f"{path} is not a regular file; name a .gguf file")

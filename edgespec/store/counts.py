"""How often each token of a vocabulary came up, as a JSON file that one model's counting leaves for another's trimming.

    {"n_vocab": 151936, "vocabulary": "9f0c...", "origin": "80 answers of ...", "counts": {"198": 5120, ...}}

Not covered: counting (counting.py), what is kept by it (gguf/keep.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgespec.errors import BadSetting
from edgespec.store.files import write_whole

MOST_BYTES = 1 << 26
MOST_TOKENS = 1 << 24


@dataclass(frozen=True)
class Counted:
    """counts int64 [n_vocab]; origin: what was counted, in words; vocabulary: mark of the tokens, "" where unknown."""

    counts: NDArray[np.int64]
    origin: str
    vocabulary: str = ""

    @property
    def n_tokens(self) -> int:
        return int(self.counts.sum())


def read_counts(path: Path) -> Counted:
    """Raises BadSetting for a file that is not there, or holds no counts."""
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, and {MOST_BYTES:,} are the most")
        found = json.loads(path.read_bytes())
        return _counted(found)
    except OSError as error:
        raise BadSetting(f"--counts {path} cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError) as error:
        raise BadSetting(
            f'--counts {path} holds no counts ({error}); a file is {{"n_vocab": N, "origin": TEXT, '
            '"counts": {"ID": N, ...}}, as --save-counts writes it'
        ) from None


def write_counts(path: Path, counted: Counted) -> None:
    """Whole or not at all; raises OSError."""
    seen = np.flatnonzero(counted.counts)
    data = {
        "n_vocab": len(counted.counts),
        "vocabulary": counted.vocabulary,
        "origin": counted.origin,
        "counts": {str(token): int(counted.counts[token]) for token in seen},
    }
    write_whole(path, json.dumps(data))


def _counted(found: Any) -> Counted:
    """Raises ValueError saying what is wrong."""
    if not isinstance(found, dict) or not isinstance(found.get("counts"), dict):
        raise ValueError("it has no counts")
    n_vocab = found.get("n_vocab")
    if not isinstance(n_vocab, int) or isinstance(n_vocab, bool) or not 1 <= n_vocab <= MOST_TOKENS:
        raise ValueError(f"its n_vocab is {n_vocab!r}")
    counts = np.zeros(n_vocab, np.int64)
    for token, n in found["counts"].items():
        if not (token.isascii() and token.isdigit()) or int(token) >= n_vocab:
            raise ValueError(f"it counts token {token[:20]!r} of {n_vocab}")
        if not isinstance(n, int) or isinstance(n, bool) or not 0 <= n < 1 << 40:
            raise ValueError(f"it counts token {token} {n!r:.20} times")
        counts[int(token)] = n
    return Counted(counts, _words(found.get("origin")) or "a file of counts", _words(found.get("vocabulary")))


def _words(said: object) -> str:
    """What a file says of itself, as far as a terminal and a model's metadata can take it."""
    return "".join(c for c in said if c.isprintable())[:200] if isinstance(said, str) else ""

"""Leaves out of ggml's CUDA sources what the benchmark's models never run: a build in a fraction of the time.

    python tools/slim_cuda.py SOURCES/vendor/llama.cpp

Kernels of weight types other than Q4_0 and Q8_0 and of head sizes other than 64 and 128 go; all others stay as they
are, with the flags that they had. A model of another kind then ends with ggml's "fatal error". Standard library only.
Not covered: types in getrows.cu, convert.cu and cpy.cu, which compile quickly.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

TYPES = ("Q4_0", "Q8_0")
HEADS = (64, 128)
# File and the function whose `switch` names a kernel family by type or by head size.
BY_TYPE = (("mmq.cu", "ggml_cuda_mul_mat_q_switch_type"), ("mmvq.cu", "mul_mat_vec_q_switch_type"))
BY_HEAD = (
    ("fattn.cu", "ggml_cuda_flash_attn_ext_mma_f16"),
    ("fattn-tile.cu", "ggml_cuda_flash_attn_ext_tile"),
)
_CASE = re.compile(r"^        (?:case +(\w+):|default:)", re.MULTILINE)
_MMA = re.compile(r"^DECL_FATTN_MMA_F16_CASE\((\d+), (\d+), .*\n", re.MULTILINE)


class SlimError(Exception):
    """The sources are not as they were when this was written; the message says where."""


def without_cases(text: str, function: str, keep: Callable[[str], bool]) -> str:
    """The text with only those cases of the function's outermost switch that `keep` takes; raises SlimError."""
    start = text.find(f"void {function}(")
    end = text.find("\n}\n", start)
    marks = list(_CASE.finditer(text, start, end)) if start >= 0 else []
    if not marks or marks[-1][1] is not None:
        raise SlimError(f"{function} has no switch that ends with a default")
    kept = [text[a.start() : b.start()] for a, b in pairwise(marks) if keep(a[1])]
    if not kept or len(kept) == len(marks) - 1:
        raise SlimError(f"{function} has {len(marks) - 1} cases, of which {len(kept)} would stay")
    return text[: marks[0].start()] + "".join(kept) + text[marks[-1].start() :]


def slim(cuda: Path) -> int:
    """How many files were left out; raises SlimError, OSError."""
    for name, function in BY_TYPE:
        _shorten(cuda / name, function, lambda case: case.removeprefix("GGML_TYPE_") in TYPES)
    for name, function in BY_HEAD:
        _shorten(cuda / name, function, lambda case: int(case) in HEADS)
    instances, n_before = cuda / "template-instances", len(list(cuda.glob("**/*.cu")))
    for file in instances.glob("mmq-instance-*.cu"):
        if file.stem.removeprefix("mmq-instance-").upper() not in TYPES:
            file.unlink()
    for file in instances.glob("fattn-tile-instance-*.cu"):
        if file.stem not in [f"fattn-tile-instance-dkq{n}-dv{n}" for n in HEADS]:
            file.unlink()
    for file in instances.glob("fattn-mma-f16-instance-*.cu"):
        text = _MMA.sub(lambda m: m[0] if int(m[1]) in HEADS else "", file.read_text())
        if _MMA.search(text):
            file.write_text(text)
        else:
            file.unlink()
    return n_before - len(list(cuda.glob("**/*.cu")))


def _shorten(file: Path, function: str, keep: Callable[[str], bool]) -> None:
    file.write_text(without_cases(file.read_text(), function, keep))


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: slim_cuda.py LLAMA_CPP", file=sys.stderr)
        return 2
    try:
        n = slim(Path(arguments[0]) / "ggml" / "src" / "ggml-cuda")
    except (SlimError, OSError) as error:
        print(f"slim_cuda: {error}", file=sys.stderr)
        return 1
    print(f"slim_cuda: {n} files left out", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Writes a drafter with random weights: same shape and vocabulary as demo-draft, nothing learnt.

usage: useless.py -o OUT.gguf
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

DRAFT = Path(__file__).resolve().parents[1] / "edgespec" / "demo" / "demo-draft.gguf"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    data = np.fromfile(DRAFT, np.uint8)
    rng = np.random.default_rng(0)
    for tensor in gguf.GGUFReader(DRAFT).tensors:
        if tensor.tensor_type != gguf.GGMLQuantizationType.Q8_0:
            continue
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = rng.standard_normal(shape).astype(np.float32) / np.sqrt(shape[-1])
        packed = gguf.quants.quantize(values, tensor.tensor_type).reshape(-1)
        data[tensor.data_offset : tensor.data_offset + packed.nbytes] = packed.view(np.uint8)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    data.tofile(args.out)


if __name__ == "__main__":
    main()

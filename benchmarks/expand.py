"""Writes a small trained llama GGUF in the shape of a bigger model, with unchanged output.

    python benchmarks/expand.py edgespec/demo/demo.gguf --shape 1b --type f16 -o demo-1b-f16.gguf
    python benchmarks/expand.py edgespec/demo/demo.gguf --shape moe --type q4_0 --vocab 152064 -o target.gguf
    python benchmarks/expand.py edgespec/demo/demo-draft.gguf --shape same --vocab 152064 -o drafter.gguf

The file costs what a real model of that shape costs (bytes, multiplications, KV cache) and says what the
small model says, so acceptance and speed can be measured together without a large download; expansion.py has
the recipe, shapes.py the shapes. Shape `same` is the least that holds the source: its own, twice as wide for
q4_0, 32 columns wider with added tokens. --vocab adds tokens that are never chosen (marker.py) up to that
number; a drafter needs the same number. Tensors are made and written one at a time; tokenizer, chat template and
all other metadata are the source's. The last line printed is a JSON object.

Not covered: whether zeros cost less power than a real model's weights. Methods that profit from zeros, from
identity layers (layer skipping, pruning), from experts that compute the same or from unused tokens (a trimmed
head) look better here than on a real model; one that quantises a two-term q4_0 file once more looks worse. Text
routes to many experts but by chance, not by what it is about.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import residual
from expansion import Expansion
from gguf import GGUFValueType as Value
from gguf.quants import dequantize, quantize
from marker import mark
from shapes import MAX_VOCAB, PRECISIONS, SHAPES, ExpansionError, Precision, Shape, smallest, tensor_sizes

UNUSED = int(gguf.TokenType.UNUSED)


class Source:
    """A llama GGUF opened for reading: its shape, metadata and tensors; raises ExpansionError if unsuited."""

    def __init__(self, path: Path) -> None:
        try:
            reader = gguf.GGUFReader(path)
        except (OSError, ValueError) as error:
            raise ExpansionError(f"cannot read {path} as GGUF: {error}") from None
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        if (architecture := self.read("general.architecture")) != "llama":
            raise ExpansionError(f"{path} is a {architecture} model; only llama can be expanded")
        self.shape = self.read_shape()
        if foreign := set(self.tensors) ^ {name for name, _ in tensor_sizes(self.shape, 0)}:
            raise ExpansionError(f"{path} is no plain dense llama model, see its tensor {min(foreign)}")
        self.epsilon = self.read("llama.attention.layer_norm_rms_epsilon")
        self.n_vocab = int(self.tensors["token_embd.weight"].shape[1])

    def read(self, key: str, default: object = None) -> Any:
        """Returns the metadata value of key; raises ExpansionError if absent and without default."""
        if key in self.fields:
            return self.fields[key].contents()
        if default is None:
            raise ExpansionError(f"the source has no {key} in its metadata")
        return default

    def read_shape(self) -> Shape:
        """Returns the shape the metadata states; raises ExpansionError for what the recipe does not cover."""
        n_embd, n_head = self.read("llama.embedding_length"), self.read("llama.attention.head_count")
        if isinstance(n_head, list):
            raise ExpansionError("the source's layers differ in their number of heads, which is not covered")
        head_dim = self.read("llama.attention.key_length", n_embd // n_head)
        for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
            if self.read(key, head_dim) != head_dim:
                raise ExpansionError(f"{key} {self.read(key)} differs from the source's head size {head_dim}")
        if scaling := [key for key in self.fields if key.startswith("llama.rope.scaling")]:
            raise ExpansionError(f"the source scales its rotary positions ({scaling[0]}), which is not covered")
        n_head_kv = self.read("llama.attention.head_count_kv", n_head)
        n_layer, n_ff = self.read("llama.block_count"), self.read("llama.feed_forward_length")
        tied = "output.weight" not in self.tensors
        return Shape(n_embd, n_layer, n_head, n_head_kv, head_dim, n_ff, tied=tied)

    def weight(self, name: str) -> np.ndarray:
        """Returns the tensor as float32, [n_out, n_in] or [n]."""
        tensor = self.tensors[name]
        return np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)

    def means(self) -> list[residual.Mean]:
        """Returns what the layers' residuals are on average."""
        base = self.read("llama.rope.freq_base", 10_000.0)
        return residual.means(self.shape, self.weight, self.epsilon, base)


def expand(
    source: Source,
    target: Shape,
    precision: Precision,
    out: Path,
    label: str = "custom",
    seed: int = 0,
    n_vocab: int | None = None,
    n_ctx: int | None = None,
    n_jobs: int = 1,
    alike: bool = False,
) -> int:
    """Writes the expansion to out, whole or not at all; returns its bytes; raises ExpansionError, OSError.

    n_vocab is the source's own or more, the rest being tokens that are never chosen; the head is tied as the source's.
    n_ctx is the context that the file claims to be trained for, the source's by default.
    n_jobs processes make tensors at once, each with memory for its own; the file is the same.
    alike: layers that only pass on what they get all hold what the first of them does, which is made in less time.
    """
    n_vocab = source.n_vocab if n_vocab is None else n_vocab
    if not source.n_vocab <= n_vocab <= MAX_VOCAB:
        raise ExpansionError(f"{n_vocab} tokens are not between the source's {source.n_vocab} and {MAX_VOCAB}")
    if not out.parent.is_dir():
        raise ExpansionError(f"there is no folder {out.parent} to write to")
    target = dataclasses.replace(target, tied=source.shape.tied)
    marker = mark(source.shape, target, precision.n_terms, source.epsilon) if n_vocab > source.n_vocab else None
    means = source.means() if target.n_expert else ()
    expansion = Expansion(source.shape, source.weight, target, precision, seed, marker, means)
    epsilon = source.epsilon * expansion.shrink - (marker.mean_square if marker else 0)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    writer = gguf.GGUFWriter(part, "llama")
    changed = changed_metadata(source, expansion, epsilon, label) | added_tokens(source, n_vocab)
    if n_ctx is not None:
        changed["llama.context_length"] = (n_ctx, Value.UINT32)
    add_metadata(writer, source, changed)
    sizes = dict(tensor_sizes(target, n_vocab))
    for name, size in sizes.items():
        stored = precision.kind(name)
        n_block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        n_bytes = math.prod(size) // n_block * block_bytes
        writer.add_tensor_info(name, size, np.dtype(np.float32), n_bytes, raw_dtype=stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()

        def make(item: tuple[str, tuple[int, ...]]) -> np.ndarray:
            made: np.ndarray = quantize(expansion.tensor(*item), precision.kind(item[0]))
            return made

        origin = {name: expansion.like(name) if alike else name for name in sizes}
        made = _tensors(make, [item for item in sizes.items() if origin[item[0]] == item[0]], n_jobs)
        copied = {first for name, first in origin.items() if first != name}
        kept: dict[str, np.ndarray] = {}
        for name, first in origin.items():
            tensor = next(made) if first == name else kept[first]
            if name in copied:
                kept[name] = tensor
            writer.write_tensor_data(tensor)
        writer.close()
        n_bytes = part.stat().st_size
        os.replace(part, out)
    finally:
        writer.close()
        part.unlink(missing_ok=True)
    return n_bytes


_make: Callable[[tuple[str, tuple[int, ...]]], np.ndarray]  # forked processes find it here: it cannot be sent


def _called(item: tuple[str, tuple[int, ...]]) -> np.ndarray:
    return _make(item)


def _tensors(
    make: Callable[[tuple[str, tuple[int, ...]]], np.ndarray], items: Sequence[tuple[str, tuple[int, ...]]], n_jobs: int
) -> Iterator[np.ndarray]:
    """What `make` makes of each item, in order, by so many processes."""
    if n_jobs <= 1:
        yield from map(make, items)
        return
    global _make
    _make = make
    with multiprocessing.get_context("fork").Pool(n_jobs) as pool:
        yield from pool.imap(_called, items)


def add_metadata(writer: gguf.GGUFWriter, source: Source, changed: dict[str, tuple[object, Value]]) -> None:
    """Adds the source's metadata to the file, but for what is changed."""
    for key, field in source.fields.items():
        if not key.startswith("GGUF.") and key not in (*changed, "general.architecture", "general.alignment"):
            kind, element = field.types[0], field.types[-1]
            writer.add_key_value(key, field.contents(), kind, element if kind == Value.ARRAY else None)
    for key, (value, kind) in changed.items():
        writer.add_key_value(key, value, kind)


def changed_metadata(
    source: Source, expansion: Expansion, epsilon: float, label: str
) -> dict[str, tuple[object, Value]]:
    """Returns value and type of every metadata key that differs from the source's, the tokenizer's aside."""
    target, prefix = expansion.target, "llama.attention"
    sizes = {
        "llama.embedding_length": target.n_embd,
        "llama.block_count": target.n_layer,
        "llama.feed_forward_length": target.n_ff,
        f"{prefix}.head_count": target.n_head,
        f"{prefix}.head_count_kv": target.n_head_kv,
        f"{prefix}.key_length": target.head_dim,
        f"{prefix}.value_length": target.head_dim,
        "llama.rope.dimension_count": target.head_dim,
        "general.file_type": expansion.precision.file_type,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    if target.n_expert:
        sizes |= {"llama.expert_count": target.n_expert, "llama.expert_used_count": target.n_expert_used}
    name = source.read("general.name", "model")
    about = f"{name} expanded to the shape {label}: same output, the cost of that shape. For measuring only."
    return {
        "general.name": (f"{name}-{label}", Value.STRING),
        "general.description": (about, Value.STRING),
        f"{prefix}.layer_norm_rms_epsilon": (epsilon, Value.FLOAT32),
        **{key: (size, Value.UINT32) for key, size in sizes.items()},
    }


def added_tokens(source: Source, n_vocab: int) -> dict[str, tuple[object, Value]]:
    """Returns the tokenizer's lists with tokens [PAD8192] ... added, which llama.cpp never makes of a text.

    llama.cpp's own converter names and types the rows so that a model has beyond its tokenizer; merges stay the
    source's, so no text leads to the added ones, and their type is left out of the special tokens it looks for.
    """
    if n_vocab == source.n_vocab:
        return {}
    prefix, n_added = "tokenizer.ggml", n_vocab - source.n_vocab
    tokens = source.read(f"{prefix}.tokens")
    added = [f"[PAD{i}]" for i in range(source.n_vocab, n_vocab)]
    if taken := sorted(set(added) & set(tokens)):
        raise ExpansionError(f"the source has a token {taken[0]} of its own, so its vocabulary cannot grow")
    types = source.read(f"{prefix}.token_type", [int(gguf.TokenType.NORMAL)] * source.n_vocab)
    lists = {f"{prefix}.tokens": tokens + added, f"{prefix}.token_type": types + [UNUSED] * n_added}
    if f"{prefix}.scores" in source.fields:
        lists[f"{prefix}.scores"] = source.read(f"{prefix}.scores") + [-10_000.0] * n_added
    return {
        "llama.vocab_size": (n_vocab, Value.UINT32),
        **{key: (values, Value.ARRAY) for key, values in lists.items()},
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="SOURCE", help="trained dense llama GGUF")
    parser.add_argument("--shape", choices=[*SHAPES, "same"], default="1b")
    parser.add_argument("--type", choices=PRECISIONS, default="f16")
    parser.add_argument("--vocab", type=int, metavar="N", help=f"tokens, up to {MAX_VOCAB} (default: the source's)")
    parser.add_argument(
        "--context", type=int, metavar="N", help="context length to claim (text fades beyond the source's)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the values that cannot reach the output")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that make tensors at once")
    parser.add_argument("--alike", action="store_true", help="layers that only pass on hold the same values: quicker")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.gguf")
    options = parser.parse_args(arguments)
    started = time.perf_counter()
    label = f"{options.shape}-{options.type}" + (f"-v{options.vocab}" if options.vocab else "")
    precision = PRECISIONS[options.type]
    try:
        source = Source(options.source)
        padded = options.vocab is not None and options.vocab > source.n_vocab
        shape = smallest(source.shape, precision, padded) if options.shape == "same" else SHAPES[options.shape]
        n_bytes = expand(
            source,
            shape,
            precision,
            options.out,
            label,
            options.seed,
            options.vocab,
            options.context,
            options.jobs,
            options.alike,
        )
    except (ExpansionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds = round(time.perf_counter() - started, 1)
    print(json.dumps({"file": str(options.out), "shape": label, "bytes": n_bytes, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The walk over a header: right on real files, quick and quiet on broken ones."""

from __future__ import annotations

import os
import random
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader

from edgespec.errors import EdgespecError, ModelUnusable
from edgespec.gguf.header import read_header
from edgespec.gguf.inspect import ModelFile, inspect
from tests.gguf.files import DEMO, META, Q8_0, WEIGHTS, entry, gguf, refusal, text


@pytest.mark.parametrize("name", ["demo", "demo-draft", "demo-xdraft"])
def test_a_header_is_what_the_gguf_package_reads(name: str) -> None:
    """Our own walk could step over an array by the wrong length and read everything after it shifted."""
    path = DEMO / f"{name}.gguf"
    ours, theirs = read_header(path), GGUFReader(path)
    assert [(t.name, t.shape, t.type, t.n_bytes, t.offset + ours.data_start) for t in ours.tensors] == [
        (t.name, tuple(t.shape.tolist()), t.tensor_type, t.n_bytes, t.data_offset) for t in theirs.tensors
    ]
    for key, field in theirs.fields.items():
        if key in ours.lengths:
            assert ours.lengths[key] == len(field.data)
        elif not key.startswith("GGUF."):
            assert ours.metadata[key] == field.contents()
    assert len(ours.metadata) + len(ours.lengths) + 3 == len(theirs.fields)


def test_no_cut_of_the_demo_gives_anything_but_a_sentence(tmp_path: Path) -> None:
    """Every offset lies inside some other field; a struct.error or an IndexError may wait at any of them."""
    path = tmp_path / "demo.gguf"
    shutil.copyfile(DEMO / "demo.gguf", path)
    size, head = path.stat().st_size, read_header(path).data_start
    rng = random.Random(5)
    cuts = {
        *range(400),
        *(rng.randrange(head) for _ in range(300)),
        *(rng.randrange(size) for _ in range(50)),
    }
    for cut in sorted({size - 1, head, head - 1, *cuts}, reverse=True):
        os.truncate(path, cut)
        with pytest.raises(ModelUnusable):
            inspect(path)


def test_no_flip_in_the_header_gives_anything_but_a_sentence(tmp_path: Path) -> None:
    """A flipped length sends the walk anywhere, a flipped count makes it loop, a flipped type misreads."""
    path = tmp_path / "demo.gguf"
    original = (DEMO / "demo.gguf").read_bytes()
    head = read_header(DEMO / "demo.gguf").data_start
    table = head - 5000
    rng = random.Random(6)
    path.write_bytes(original[:head])
    os.truncate(path, len(original))
    n_refused = 0
    with open(path, "r+b", buffering=0) as file:
        for trial in range(700):
            at = rng.randrange(1500) if trial % 2 else rng.randrange(table, head)
            wrong = rng.choice([rng.randbytes(1), rng.randbytes(8), b"\xff" * 8, bytes(8), b"\xff"])
            file.seek(at)
            file.write(wrong)
            start = time.perf_counter()
            try:
                assert isinstance(inspect(path), ModelFile)
            except EdgespecError:
                n_refused += 1
            assert time.perf_counter() - start < 3
            file.seek(at)
            file.write(original[at : at + len(wrong)])
    assert n_refused > 200, "flips were not put back, or nothing was looked at"


def test_random_bytes_after_the_magic_give_a_sentence(put: Callable[..., Path]) -> None:
    """Counts drawn at random are astronomical: bounds must come before loops and allocations."""
    rng = random.Random(7)
    for _ in range(200):
        version = rng.choice([2, 3])
        refusal(put(b"GGUF" + struct.pack("<I", version) + rng.randbytes(rng.randrange(400))))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (text("k") + struct.pack("<IIQ", 9, 8, 1 << 40), "strings in arrays"),
        (text("k") + struct.pack("<IIQ", 9, 8, (1 << 22) - 3), "only a vocabulary"),  # all allowed
        (text("k") + struct.pack("<IIQ", 9, 0, 1 << 62), "cut short"),
        (text("k") + struct.pack("<IIQ", 9, 0, 1 << 35), "256 MiB"),
        (text("k") + struct.pack("<IIQ", 9, 9, 1 << 20), "array elements of type 9"),
        (text("k") + struct.pack("<IQ", 8, 1 << 35), "bytes of a string"),
        (struct.pack("<Q", (1 << 64) - 1), "bytes of a string"),  # a key of that length
    ],
)
def test_huge_counts_end_quickly(more: bytes, words: str, put: Callable[..., Path]) -> None:
    """Counts that a sparse file of 64 GiB seems to back would loop for minutes or allocate gigabytes."""
    path = put(gguf(weights=(), more=more, n_more=1))
    os.truncate(path, 64 << 30)
    start = time.perf_counter()
    assert words in refusal(path)
    assert time.perf_counter() - start < 5


def test_huge_tables_end_quickly(put: Callable[..., Path]) -> None:
    """The counts at the head are the first that are believed; real files hold a few thousand of each."""
    counts = ((1 << 60, 3, "tensors"), (3, 1 << 60, "entries"), (1 << 17, 1 << 16, "twice"))
    for n_tensors, n_keys, words in counts:
        path = put(struct.pack("<4sIQQ", b"GGUF", 3, n_tensors, n_keys))
        os.truncate(path, 64 << 30)
        assert words in refusal(path)


def test_a_broken_table_is_damage(put: Callable[..., Path]) -> None:
    """The runtime would refuse these with its own words, or read weights from the wrong place."""
    twice = [WEIGHTS[0], WEIGHTS[0]]
    assert "twice" in refusal(put(gguf(weights=twice)))
    assert "shape" in refusal(put(gguf(weights=[("token_embd.weight", (33, 3), Q8_0, 102)])))
    assert "dimensions" in refusal(put(gguf(weights=[("token_embd.weight", (32, 1, 1, 1, 1), Q8_0, 34)])))
    assert "weights of type 77" in refusal(put(gguf(weights=[("token_embd.weight", (32,), 77, 32)])))
    assert "expected at" in refusal(put(gguf(weights=[("token_embd.weight", (32, 3), Q8_0, 300), WEIGHTS[1]])))
    assert "alignment" in refusal(put(gguf({**META, "general.alignment": 33})))
    again = entry("general.name", "other")
    assert "twice" in refusal(put(gguf(more=again, n_more=1)))

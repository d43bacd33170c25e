"""Huge pages for weights: only for what was just loaded, and never another content."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgespec.backends.llama_cpp import pages
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.memory.measure import pss
from edgespec.types import ContextSpec

BIG = 4 * pages.MIN_BYTES


@pytest.fixture
def memory() -> Iterator[mmap.mmap]:
    """Anonymous memory as malloc gets it for a large buffer."""
    block = mmap.mmap(-1, BIG, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    yield block
    block.close()


def test_only_large_private_memory_without_a_file_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails when a mapped file, a stack, shared or small memory would be collapsed."""
    maps = tmp_path / "maps"
    maps.write_text(
        "7f0000000000-7f0004000000 rw-p 00000000 00:00 0 \n"
        "7f1000000000-7f1004000000 r--p 00000000 08:01 1234 /models/a.gguf\n"
        "7f2000000000-7f2004000000 rw-s 00000000 00:01 77 /dev/shm/x\n"
        "7f3000000000-7f3000100000 rw-p 00000000 00:00 0 \n"
        "7f4000000000-7f4004000000 rw-p 00000000 00:00 0 [heap]\n"
    )
    monkeypatch.setattr(pages, "_MAPS", maps)
    assert pages.anonymous_regions() == {(0x7F0000000000, 0x7F0004000000)}


def test_where_the_system_tells_nothing_nothing_is_done(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Fails when loading a model depends on /proc."""
    monkeypatch.setattr(pages, "_MAPS", tmp_path / "missing")
    assert pages.collapse_new(frozenset()) == 0


def test_what_stood_there_before_is_left_alone(memory: mmap.mmap) -> None:
    """Fails when every load goes over memory of others again."""
    memory[:] = b"\1" * BIG
    assert pages.collapse_new(pages.anonymous_regions()) == 0


def test_a_new_buffer_keeps_its_content(memory: mmap.mmap) -> None:
    """Fails when weights are damaged on the way; where the kernel cannot collapse, they stay where they are."""
    content = np.random.default_rng(0).integers(0, 256, BIG, np.uint8).tobytes()
    memory[:] = content
    assert pages.collapse_new(frozenset()) >= 0
    assert memory[:] == content


def test_a_dropped_file_is_read_again(tmp_path: Path) -> None:
    """Fails when pages that are given back are lost, or none are given back."""
    path = tmp_path / "weights"
    content = np.random.default_rng(0).integers(0, 256, BIG, np.uint8).tobytes()
    path.write_bytes(content)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[:] == content
        assert pages.drop_file(path) == BIG
        assert mapped[:] == content
    assert pages.drop_file(path) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc_trim")
def test_what_a_closed_context_held_is_free_for_others() -> None:
    """A chat that stepped to smaller contexts took more with every step, 54 then 67, 77 and 81 MiB here: its memory
    went to the allocator, never to the system."""
    demo = Path(__file__).parents[3] / "edgespec" / "demo" / "demo-draft.gguf"
    model, held = LlamaModel(demo, LoadOptions()), []
    for _ in range(4):
        large = model.open(ContextSpec(2048, n_threads=1))
        large.prefill(0, np.arange(1500, dtype=np.int32))
        small = model.open(ContextSpec(256, n_threads=1))
        large.close()
        small.close()
        held.append(pss())
    model.close()
    assert held[-1] - held[0] < 8 << 20

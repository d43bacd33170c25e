"""What inspect says of files: whole, broken on purpose, and of other kinds."""

from __future__ import annotations

import os
import random
import re
import shutil
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader

import edgespec
from edgespec.errors import EdgespecError, ModelNotFound, ModelUnusable
from edgespec.gguf.header import read_header
from edgespec.gguf.inspect import ModelFile, inspect

DEMO = Path(edgespec.__file__).parent / "demo"

F32, Q8_0 = GGMLQuantizationType.F32, GGMLQuantizationType.Q8_0
Value = str | int | bool | list[str] | list[int]
META: dict[str, Value] = {
    "general.architecture": "llama",
    "general.name": "tiny",
    "llama.context_length": 128,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}
WEIGHTS = (("token_embd.weight", (32, 3), Q8_0, 3 * 34), ("output_norm.weight", (32,), F32, 128))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value, bool):
        return text(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if value and isinstance(value[0], int):
        return text(key) + struct.pack(f"<IIQ{len(value)}i", 9, 5, len(value), *value)
    return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(str(v)) for v in value)


def gguf(
    meta: Mapping[str, Value] | None = None,
    weights: Sequence[tuple[str, tuple[int, ...], int, int]] = WEIGHTS,
    *,
    version: int = 3,
    more: bytes = b"",
    n_more: int = 0,
) -> bytes:
    """A file by hand: metadata, table, zeros for data; `more` are raw bytes of n_more further entries."""
    meta = META if meta is None else meta
    body = struct.pack("<4sIQQ", b"GGUF", version, len(weights), len(meta) + n_more)
    body += b"".join(entry(key, value) for key, value in meta.items()) + more
    offset = 0
    for name, shape, kind, n_bytes in weights:
        body += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        offset += -(-n_bytes // 32) * 32
    return body + bytes(-len(body) % 32 + offset)


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, name: str = "model.gguf") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


def without(*keys: str, **more: Value) -> dict[str, Value]:
    return {key: value for key, value in {**META, **more}.items() if key not in keys}


def refusal(path: Path, kind: type[EdgespecError] = ModelUnusable) -> str:
    """The sentence, after checking that it is one and names the file."""
    with pytest.raises(kind) as caught:
        inspect(path)
    message = str(caught.value)
    assert path.name in message
    assert "\n" not in message
    assert re.search(r"[;:] ", message), "what to do follows what is wrong"
    return message


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


def test_the_demo_is_described() -> None:
    """A field could come from the wrong key; figures are those of the model card."""
    path = DEMO / "demo.gguf"
    assert inspect(path) == ModelFile(
        path=path,
        architecture="llama",
        name="edgespec-demo",
        n_tensors=56,
        n_vocab=8192,
        n_ctx_train=2048,
        tensor_bytes=13_389_312,
        quantisation="Q8_0",
        causal=True,
        pooling=None,
        tokenizer="gpt2",
    )


def test_a_file_by_hand_is_a_model(put: Callable[..., Path]) -> None:
    """If the builder of these tests made broken files, every refusal would pass for the wrong reason."""
    found = inspect(put(gguf()))
    assert (found.n_vocab, found.n_ctx_train, found.tensor_bytes) == (3, 128, 3 * 34 + 128)
    assert found.quantisation == "F32", "no file_type: the type with most bytes"
    assert inspect(put(gguf(without(**{"general.file_type": 15})))).quantisation == "Q4_K_M"
    assert inspect(put(gguf(version=2))).name == "tiny"


def test_what_is_no_file_is_not_found(tmp_path: Path) -> None:
    """Opening a pipe waits for ever, a directory gives EISDIR, a NUL ValueError: none may escape."""
    (tmp_path / "folder").mkdir()
    assert "check the path" in refusal(tmp_path / "nothing.gguf", ModelNotFound)
    assert "is a directory" in refusal(tmp_path / "folder", ModelNotFound)
    (tmp_path / "folder" / "x.gguf").touch()
    assert refusal(tmp_path / "folder", ModelNotFound).endswith("x.gguf")
    refusal(tmp_path / ("x" * 400), ModelNotFound)
    (tmp_path / "link.gguf").symlink_to(tmp_path / "gone")
    assert "gone" in refusal(tmp_path / "link.gguf", ModelNotFound)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.gguf")
        assert "not a regular file" in refusal(tmp_path / "pipe.gguf", ModelNotFound)
    with pytest.raises(ModelNotFound, match="null"):
        inspect("a\0b.gguf")


def test_a_file_that_may_not_be_read_is_not_found(
    put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """PermissionError is an OSError, but what to do about it differs (faked: root can read everything)."""
    path = put(gguf())

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "permissions" in refusal(path, ModelNotFound)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"GG", "cut short"),
        (bytes(5000), "only zeros"),
        (struct.pack("<Q", 300) + b'{"__metadata__":{}}', "safetensors"),
        (b"PK\x03\x04" + bytes(99), "zip"),
        (b"\x80\x02}q\x00", "pickle"),
        (b"  <!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"tjgg\x01\0\0\0", "old GGML"),
        (b'{"model_type": "llama"}', "JSON"),
        (b"Hello, this is a text.", "b'Hell'"),
    ],
)
def test_what_is_no_gguf_is_named(data: bytes, words: str, put: Callable[..., Path]) -> None:
    """ "magic invalid" tells nobody that the browser saved a login page."""
    assert words in refusal(put(data))


def test_other_versions_and_byte_orders_are_refused(put: Callable[..., Path]) -> None:
    """Version 3 byte-swapped is 50331648: the sentence must speak of byte order, not of a version."""
    assert "big-endian" in refusal(put(b"GGUF" + struct.pack(">IQQ", 3, 1, 1)))
    assert "get a newer file" in refusal(put(gguf(version=1)))
    assert "update edgespec" in refusal(put(gguf(version=4)))


def test_a_cut_file_is_refused_with_both_numbers(put: Callable[..., Path]) -> None:
    """A download that stopped leaves a whole header: only the tensor table knows what is missing."""
    whole = gguf()
    needed = len(whole)  # the last tensor ends on a multiple of 32
    message = refusal(put(whole[:-1]))
    assert f"{needed:,}" in message
    assert f"{needed - 1:,}" in message
    assert "download it again" in message


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
    "more",
    [
        text("k") + struct.pack("<IIQ", 9, 8, 1 << 40),  # strings
        text("k") + struct.pack("<IIQ", 9, 8, (1 << 22) - 3),  # as many as are allowed, all of zero length
        text("k") + struct.pack("<IIQ", 9, 0, 1 << 62),  # bytes
        text("k") + struct.pack("<IIQ", 9, 9, 1 << 20),  # arrays of arrays
        text("k") + struct.pack("<IQ", 8, 1 << 35),  # a string of 32 GiB
        struct.pack("<Q", (1 << 64) - 1),  # a key of that length
    ],
)
def test_huge_counts_end_quickly(more: bytes, put: Callable[..., Path]) -> None:
    """Counts that a sparse file of 64 GiB seems to back would loop for minutes or allocate gigabytes."""
    path = put(gguf(more=more, n_more=1))
    os.truncate(path, 64 << 30)
    start = time.perf_counter()
    refusal(path)
    assert time.perf_counter() - start < 5


def test_huge_tables_end_quickly(put: Callable[..., Path]) -> None:
    """The counts at the head are the first that are believed."""
    for counts in ((1 << 60, 3), (3, 1 << 60), (1 << 16, 1 << 16)):
        path = put(struct.pack("<4sIQQ", b"GGUF", 3, *counts))
        os.truncate(path, 64 << 30)
        refusal(path)


def test_a_vocabulary_is_no_model(put: Callable[..., Path]) -> None:
    """llama.cpp ships vocabulary-only files with complete metadata; without embeddings none can write."""
    assert "only a vocabulary" in refusal(put(gguf(weights=())))
    assert "no token embeddings" in refusal(put(gguf(weights=[("blk.0.x.weight", (32,), F32, 128)])))
    assert "no tokenizer" in refusal(put(gguf(without("tokenizer.ggml.tokens"))))
    assert "no tokenizer" in refusal(put(gguf(without(**{"tokenizer.ggml.model": "no_vocab"}))))
    assert "architecture" in refusal(put(gguf(without("general.architecture"))))
    assert "architecture" in refusal(put(gguf(without(**{"general.architecture": "\x1b[2J"}))))


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"general.architecture": "bert"}, "embedding model"),
        ({"general.architecture": "nomic-bert-moe"}, "embedding model"),
        ({"llama.pooling_type": 1}, "embedding model"),
        ({"llama.pooling_type": 3}, "embedding model"),
        ({"llama.attention.causal": False}, "embedding model"),
        ({"general.architecture": "dream", "dream.attention.causal": False}, "diffusion"),
        ({"general.architecture": "t5"}, "encoder-decoder"),
        ({"general.architecture": "clip"}, "mmproj"),
        ({"general.type": "mmproj"}, "mmproj"),
        ({"general.type": "adapter"}, "LoRA"),
        ({"adapter.type": "lora"}, "LoRA"),
        ({"general.type": "imatrix"}, "importance matrix"),
        ({"general.type": "\x1b[31m"}, "not a model"),
    ],
)
def test_other_kinds_of_model_are_named(meta: dict[str, Value], words: str, put: Callable[..., Path]) -> None:
    """Each of these loads in llama.cpp or fails with words about a missing tensor."""
    message = refusal(put(gguf({**META, **meta})))
    assert words in message
    assert message.isprintable()


def test_pooling_none_is_a_text_model(put: Callable[..., Path]) -> None:
    """The key alone, with value 0, says that there is no pooling."""
    assert inspect(put(gguf(without(**{"llama.pooling_type": 0})))).pooling == "none"


def test_a_split_model_is_seen_as_a_whole(put: Callable[..., Path]) -> None:
    """llama.cpp finds the parts by name; sums must cover them all, and embeddings may lie in any."""
    split: dict[str, Value] = {"split.count": 2, "split.no": 0}
    first = put(gguf({**META, **split}, weights=()), "m-00001-of-00002.gguf")
    assert "1 are there" in refusal(first, ModelNotFound)
    assert "m-00002-of-00002.gguf" in refusal(first, ModelNotFound)
    second = put(gguf({"split.count": 2, "split.no": 1}), "m-00002-of-00002.gguf")
    assert inspect(first).n_tensors == 2
    assert inspect(first).tensor_bytes == 3 * 34 + 128
    os.truncate(second, second.stat().st_size - 40)
    with pytest.raises(ModelUnusable, match=r"m-00002-of-00002\.gguf is cut short"):
        inspect(first)


def test_a_part_that_is_not_the_first_names_the_first(put: Callable[..., Path]) -> None:
    """Renamed parts cannot be found again, and a later part alone has no tokenizer to speak of."""
    later: dict[str, Value] = {"split.count": 3, "split.no": 1}
    named = put(gguf({**META, **later}), "m-00002-of-00003.gguf")
    assert "name the first part, m-00001-of-00003.gguf" in refusal(named)
    assert "-00001-of-00003.gguf" in refusal(put(gguf({**META, **later})))
    assert "renamed" in refusal(put(gguf({**META, "split.count": 3, "split.no": 0})))


def test_a_broken_table_is_damage(put: Callable[..., Path]) -> None:
    """The runtime would refuse these with its own words, or read weights from the wrong place."""
    twice = [WEIGHTS[0], WEIGHTS[0]]
    assert "twice" in refusal(put(gguf(weights=twice)))
    assert "shape" in refusal(put(gguf(weights=[("token_embd.weight", (33, 3), Q8_0, 102)])))
    assert "dimensions" in refusal(put(gguf(weights=[("token_embd.weight", (32, 1, 1, 1, 1), Q8_0, 34)])))
    assert "weights of type 77" in refusal(put(gguf(weights=[("token_embd.weight", (32,), 77, 32)])))
    assert "expected at" in refusal(
        put(gguf(weights=[("token_embd.weight", (32, 3), Q8_0, 300), WEIGHTS[1]]))
    )
    assert "alignment" in refusal(put(gguf({**META, "general.alignment": 33})))
    again = entry("general.name", "other")
    assert "twice" in refusal(put(gguf(more=again, n_more=1)))

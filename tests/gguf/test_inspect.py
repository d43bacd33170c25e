"""What inspect says of files: whole ones, parts, other kinds and what is no model at all."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from edgespec.errors import ModelNotFound, ModelUnusable
from edgespec.gguf.inspect import ModelFile, inspect
from tests.gguf.files import DEMO, F32, META, Value, gguf, refusal, without


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


def test_a_mask_that_the_file_names_is_told(put: Callable[..., Path]) -> None:
    """It says that the model was taught to fill in masks. Fails when another special token is taken for it."""
    assert inspect(put(gguf())).mask_token_id is None
    assert inspect(put(gguf(without(**{"tokenizer.ggml.mask_token_id": 2})))).mask_token_id == 2


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


def test_a_file_that_may_not_be_read_is_not_found(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
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

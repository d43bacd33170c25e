"""A trimmed file: the same tensors with fewer rows in the head, written whole or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from edgespec.errors import BadSetting, ModelUnusable
from edgespec.gguf import trim as trim_module
from edgespec.gguf.header import read_header
from edgespec.gguf.inspect import inspect
from edgespec.gguf.keep import Kept
from edgespec.gguf.original import find_original
from edgespec.gguf.shape import read_shape
from edgespec.gguf.trim import trim
from edgespec.gguf.trimmed import mark, read_trim
from tests.cut import DRAFT, F16, Q4_0, Q8_0, cut, like_the_drafter, some_ids
from tests.gguf.files import META, WEIGHTS, Value, gguf

K = 1024


@pytest.mark.parametrize("untied", [False, True])
@pytest.mark.parametrize("kind", [Q8_0, Q4_0, F16], ids=lambda k: k.name)
def test_other_tensors_are_the_same_bytes_and_the_head_has_the_kept_rows(tmp_path: Path, kind, untied: bool) -> None:
    """Fails when a row is cut across a block, a tensor lands at another's offset, or one of a pair is left whole."""
    source = like_the_drafter(tmp_path / "draft.gguf", kind, untied=untied)
    out = tmp_path / "trimmed.gguf"
    ids = some_ids(source, K)
    found = trim(source, out, Kept(ids, None), "a test")
    before, after = ({t.name: t for t in GGUFReader(path).tensors} for path in (source, out))
    assert list(before) == list(after)
    for name, tensor in before.items():
        expected = tensor.data[ids] if name in ("token_embd.weight", "output.weight") else tensor.data
        assert after[name].tensor_type == tensor.tensor_type
        assert np.array_equal(after[name].data, expected)
    assert (found.k, found.n_vocab) == (K, 8192)
    assert (found.before_bytes, found.after_bytes) == (source.stat().st_size, out.stat().st_size)


def test_parts_of_a_split_model_become_one_file(tmp_path: Path) -> None:
    """Fails when only the first part's tensors come along, or what says that it is split stays."""
    whole = like_the_drafter(tmp_path / "whole.gguf")
    source = like_the_drafter(tmp_path / "draft.gguf", parts=3)
    cut(whole, tmp_path / "a.gguf")
    found = cut(source, tmp_path / "b.gguf")
    one, other = ({t.name: t.data for t in GGUFReader(tmp_path / name).tensors} for name in ("a.gguf", "b.gguf"))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert not [key for key in read_header(found.path).entries if key.startswith("split.")]
    assert find_original(found.path, *_told(found.path)).path == source


def _told(path: Path):
    header = read_header(path)
    trim_ = read_trim(path, header.metadata)
    assert trim_ is not None
    return header, trim_


def test_the_file_says_what_it_was_cut_from(tmp_path: Path) -> None:
    """Fails when a fact is missing: without the ids no column has a name, without the mark no change is seen."""
    ids = some_ids(DRAFT, K)
    out = tmp_path / "trimmed.gguf"
    trim(DRAFT, out, Kept(ids, 0.97), "12 answers of demo")
    header, told = _told(out)
    assert (told.n_vocab, told.counts, told.source_bytes) == (8192, "12 answers of demo", DRAFT.stat().st_size)
    assert told.coverage == pytest.approx(0.97)
    assert (out.parent / told.source).samefile(DRAFT)
    original = find_original(out, header, told)
    assert np.array_equal(original.ids, ids)
    assert (original.n_vocab, original.embedding.shape) == (8192, (256, 8192))
    raw = np.memmap(original.part, np.uint8, "r", original.offset, (8192, 272))
    assert np.array_equal(raw, GGUFReader(DRAFT).tensors[0].data)
    assert header.metadata["tokenizer.ggml.model"] == "no_vocab"
    assert header.metadata["llama.vocab_size"] == K
    kept = {k: v for k, v in read_header(DRAFT).metadata.items() if not k.startswith("tokenizer.")}
    assert {k: header.metadata[k] for k in kept if k != "llama.vocab_size"} == {
        k: v for k, v in kept.items() if k != "llama.vocab_size"
    }


def test_a_trimmed_file_is_a_model_of_its_originals_vocabulary(tmp_path: Path) -> None:
    """Fails when a planner takes k for the vocabulary, or V for the columns of a row."""
    found = cut(DRAFT, tmp_path / "trimmed.gguf")
    file, shape = inspect(found.path), read_shape(found.path)
    assert (file.n_vocab, file.trim is not None) == (8192, True)
    assert (shape.n_vocab, shape.n_whole_vocab, shape.embedding.shape) == (K, 8192, (256, K))


def test_the_mask_of_a_parallel_drafter_comes_along(tmp_path: Path) -> None:
    """Fails when a drafter that was taught to fill in masks forgets which token that is."""
    source = DRAFT.with_name("demo-draft-parallel.gguf")
    assert inspect(cut(source, tmp_path / "t.gguf").path).mask_token_id == inspect(source).mask_token_id is not None


class _Interrupt(BaseException):
    pass


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when half a file stands under the final name, or an older one is lost."""
    out = tmp_path / "trimmed.gguf"
    out.write_bytes(b"older")

    def stop(done: float) -> None:
        if done > 0.5:
            raise _Interrupt

    with pytest.raises(_Interrupt):
        trim(DRAFT, out, Kept(some_ids(DRAFT, K), None), "a test", stop)
    assert [p.name for p in tmp_path.iterdir()] == ["trimmed.gguf"]
    assert out.read_bytes() == b"older"
    monkeypatch.setattr(trim_module.os, "fsync", _full)
    with pytest.raises(OSError, match="full"):
        cut(DRAFT, out)
    assert [p.name for p in tmp_path.iterdir()] == ["trimmed.gguf"]


def _full(_: int) -> None:
    raise OSError("full")


def test_hashing_the_original_can_be_stopped(tmp_path: Path) -> None:
    """Fails when who asks waits until gigabytes were read, before a byte is written."""
    asked: list[float] = []

    def stop(done: float) -> None:
        asked.append(done)
        raise _Interrupt

    with pytest.raises(_Interrupt):
        trim(DRAFT, tmp_path / "t.gguf", Kept(some_ids(DRAFT, K), None), "a test", stop)
    assert asked == [0.0]
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Fails when every kill leaves a file as large as a model, or another process's half is taken away."""
    dead, alive, other = (tmp_path / f".{name}.part" for name in ("t.gguf.99999999", "t.gguf.1", "u.gguf.99999999"))
    for left in (dead, alive, other):
        left.write_bytes(b"half")
    cut(DRAFT, tmp_path / "t.gguf")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([alive.name, other.name, "t.gguf"])


@pytest.mark.parametrize(
    ("meta", "weights", "says"),
    [
        (META, WEIGHTS[1:], "has no head to trim"),
        (META, (("token_embd.weight", (32, 5), 8, 170),), "3 tokens and an embedding of 5 rows"),
        (META, (*WEIGHTS, ("per_layer_token_embd.weight", (32, 3), 8, 102)), "looks up per_layer_token_embd.weight"),
        ({**META, "llama.rope.dimension_sections": [1, 2, 3]}, WEIGHTS, "more with an input than one row"),
        (META, (*WEIGHTS, ("blk.1.nextn.embed_tokens.weight", (32, 3), 8, 102)), "looks up blk.1.nextn.embed_tokens"),
        ({**META, "general.architecture": "cogvlm"}, WEIGHTS, "treats embeddings unlike tokens"),
    ],
    ids=["no head", "rows", "per layer", "positions", "next tokens", "another graph"],
)
def test_a_model_whose_rows_cannot_be_cut(put, meta: dict[str, Value], weights, says: str) -> None:
    """Fails when a file is written that would draft nonsense."""
    source = put(gguf(meta, weights))
    with pytest.raises(ModelUnusable, match=says):
        trim(source, source.with_name("out.gguf"), Kept(np.arange(2, dtype=np.int32), None), "a test")
    assert not source.with_name("out.gguf").exists()


def test_a_trimmed_file_is_not_trimmed_again(tmp_path: Path) -> None:
    """Fails when ids of columns would be taken for ids of tokens."""
    found = cut(DRAFT, tmp_path / "trimmed.gguf")
    with pytest.raises(ModelUnusable, match="is trimmed already; trim its original"):
        trim(found.path, tmp_path / "again.gguf", Kept(np.arange(9, dtype=np.int32), None), "a test")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """Fails when the original is overwritten by what needs it."""
    source = tmp_path / "draft.gguf"
    shutil.copyfile(DRAFT, source)
    for out, says in (
        (source, "is the drafter itself"),
        (tmp_path, "is a directory"),
        (tmp_path / "a" / "b", "folder"),
    ):
        with pytest.raises(BadSetting, match=says):
            trim(source, out, Kept(np.arange(9, dtype=np.int32), None), "a test")
    assert source.read_bytes() == DRAFT.read_bytes()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An original and what was cut from it, in folders of their own."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    shutil.copyfile(DRAFT, tmp_path / "a" / "draft.gguf")
    return tmp_path / "a" / "draft.gguf", cut(tmp_path / "a" / "draft.gguf", tmp_path / "b" / "t.gguf").path


def test_an_original_may_move_with_its_copy_or_beside_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Fails when the place is stored absolutely, or looked for at one place only."""
    source, out = pair
    assert find_original(out, *_told(out)).path == source
    (tmp_path / "moved").mkdir()
    shutil.move(str(tmp_path / "a"), str(tmp_path / "moved" / "a"))
    shutil.move(str(tmp_path / "b"), str(tmp_path / "moved" / "b"))
    out = tmp_path / "moved" / "b" / "t.gguf"
    assert find_original(out, *_told(out)).path == tmp_path / "moved" / "a" / "draft.gguf"
    shutil.move(str(tmp_path / "moved" / "a" / "draft.gguf"), str(out.parent / "draft.gguf"))
    assert find_original(out, *_told(out)).path == out.parent / "draft.gguf"


def test_an_original_that_is_gone_or_another(pair: tuple[Path, Path]) -> None:
    """Fails when rows of another model would be read: its drafts would be noise, and nobody would know why."""
    source, out = pair
    content = bytearray(source.read_bytes())
    with open(source, "ab") as file:
        file.write(b"more")
    with pytest.raises(ModelUnusable, match=f"had {len(content):,} bytes; now it has {len(content) + 4:,}"):
        find_original(out, *_told(out))
    content[-1] ^= 1
    source.write_bytes(content)
    with pytest.raises(ModelUnusable, match="holds something else now"):
        find_original(out, *_told(out))
    shutil.copyfile(DRAFT, out.parent / "draft.gguf")
    assert find_original(out, *_told(out)).path == out.parent / "draft.gguf"
    (out.parent / "draft.gguf").unlink()
    source.unlink()
    with pytest.raises(ModelUnusable, match=r"goes on reading its original, draft\.gguf, and there is no"):
        find_original(out, *_told(out))


def test_a_mark_sees_a_bit_at_either_end(tmp_path: Path) -> None:
    """Fails when the first or the last bytes are in no piece."""
    path = tmp_path / "file"
    content = bytes(10_000_000)
    path.write_bytes(content)
    seen = {mark([path])}
    for at in (0, len(content) - 1):
        path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
        seen.add(mark([path]))
    assert len(seen) == 3

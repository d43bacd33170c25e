"""Loads a GGUF through llama.cpp and answers for its vocabulary; owns the llama_model pointer."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import llama_cpp.llama_cpp as lib

from edgespec.backends.llama_cpp import figures, pages, runtime
from edgespec.backends.llama_cpp.context import LlamaContext
from edgespec.backends.llama_cpp.load import LoadOptions, model_params
from edgespec.backends.llama_cpp.trimmed import TrimmedHead, inputs_of
from edgespec.errors import BackendError, Cancelled, ModelUnusable
from edgespec.types import ContextSpec


class LlamaModel:
    """Loaded weights.

    head: of a trimmed drafter; its ids, pieces and tokenizer are those of the vocabulary that it was cut from
    Raises ModelUnusable where the runtime refuses the file, Cancelled where progress returned False.
    """

    def __init__(
        self,
        path: Path,
        options: LoadOptions,
        progress: Callable[[float], bool] | None = None,
        head: TrimmedHead | None = None,
    ) -> None:
        runtime.start()
        self._words: ctypes.c_void_p | None = None
        self._inputs = inputs_of(head) if head else None
        given = model_params(options)
        params = given.struct
        stopped = False

        def on_progress(done: float, _user: object) -> bool:
            nonlocal stopped
            stopped = progress is not None and not progress(done)
            return not stopped

        callback = lib.llama_progress_callback(on_progress)
        params.progress_callback = callback
        runtime.log.clear()
        regions = pages.anonymous_regions()
        self._ptr = lib.llama_model_load_from_file(os.fsencode(path), params)
        pages.collapse_new(regions)
        self.buffers = figures.read(runtime.log.lines()).weights
        if any("REPACK" in name for name in self.buffers):
            pages.drop_file(path)
        if stopped:
            self.close()
            raise Cancelled("stopped while loading the model")
        if not self._ptr:
            self.close()
            why = runtime.log.reason() or "it gave no reason"
            raise ModelUnusable(f"the runtime could not load {path.name}: {why}; try another file or a newer edgespec")
        self.name = path.stem
        self._options = options
        self._head = head
        self._n_columns = int(lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._ptr)))
        if head and len(head.ids) != self._n_columns:
            self.close()
            raise ModelUnusable(
                f"{path.name} has {self._n_columns} rows and names {len(head.ids)} tokens: it was written anew while "
                "it was opened; start again"
            )
        self.n_vocab = head.table.n_vocab if head else self._n_columns
        self.n_ctx_train = int(lib.llama_model_n_ctx_train(self._ptr))
        self.weight_bytes = int(lib.llama_model_size(self._ptr))

    @property
    def _vocab(self) -> ctypes.c_void_p:
        """A trimmed drafter's is loaded from its original when something asks for it, which in use only the check
        against the target does."""
        if self._head is None:
            return lib.llama_model_get_vocab(self._ptr)  # type: ignore[no-any-return]
        if self._words is None:
            params = lib.llama_model_default_params()
            params.vocab_only = True
            runtime.log.clear()
            self._words = lib.llama_model_load_from_file(os.fsencode(self._head.vocabulary), params)
            if not self._words:
                raise ModelUnusable(
                    f"the runtime could not read the vocabulary of {self._head.vocabulary.name}, the original of "
                    f"{self.name}: {runtime.log.reason() or 'it gave no reason'}; get that file again"
                )
        return lib.llama_model_get_vocab(self._words)  # type: ignore[no-any-return]

    def _forget_words(self) -> None:
        if self._words:
            lib.llama_model_free(self._words)
        self._words = None

    @cached_property
    def metadata(self) -> dict[str, str]:
        def read(call: Callable[..., int], index: int) -> str:
            n = call(self._ptr, index, ctypes.create_string_buffer(1), 1)
            buffer = ctypes.create_string_buffer(max(n, 0) + 1)
            call(self._ptr, index, buffer, len(buffer))
            return buffer.value.decode("utf-8", "replace")

        key, value = lib.llama_model_meta_key_by_index, lib.llama_model_meta_val_str_by_index
        return {read(key, i): read(value, i) for i in range(lib.llama_model_meta_count(self._ptr))}

    @cached_property
    def end_ids(self) -> frozenset[int]:
        vocab = self._vocab
        return frozenset(i for i in range(self.n_vocab) if lib.llama_vocab_is_eog(vocab, i))

    @property
    def bos_text(self) -> str:
        return self._token_text(lib.llama_vocab_bos(self._vocab))

    @property
    def eos_text(self) -> str:
        return self._token_text(lib.llama_vocab_eos(self._vocab))

    def _token_text(self, token: int) -> str:
        return "" if token < 0 else bytes(lib.llama_vocab_get_text(self._vocab, token)).decode("utf-8", "replace")

    @property
    def adds_bos(self) -> bool:
        return bool(lib.llama_vocab_get_add_bos(self._vocab))

    @property
    def chat_template(self) -> str | None:
        text = lib.llama_model_chat_template(self._ptr, None)
        return None if text is None else text.decode("utf-8", "replace")

    @cached_property
    def _pieces(self) -> list[bytes]:
        buffer, vocab = ctypes.create_string_buffer(1024), self._vocab
        pieces = []
        for token in range(self.n_vocab):
            n = lib.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
            if n < 0:
                buffer = ctypes.create_string_buffer(-n)
                n = lib.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, False)
            pieces.append(buffer.raw[: max(n, 0)])
        return pieces

    def pieces(self) -> list[bytes]:
        return self._pieces

    def share_pieces(self, other: LlamaModel) -> None:
        """Take another model's pieces for one's own, which are equal: they weigh as much as a small drafter."""
        self._pieces = other.pieces()
        self._forget_words()

    def tokenize(self, text: bytes, *, special: bool, add_bos: bool = False) -> list[int]:
        room = len(text) + 8
        while True:
            ids = (ctypes.c_int32 * room)()
            n = lib.llama_tokenize(self._vocab, text, len(text), ids, room, False, special)
            if n >= 0:
                break
            if n == -(2**31):
                raise BackendError(f"the text of {len(text)} bytes is too long for the tokenizer; shorten it")
            room = -n
        bos = lib.llama_vocab_bos(self._vocab)
        return [*([bos] if add_bos and bos >= 0 else []), *ids[:n]]

    @property
    def recurrent(self) -> bool:
        """Whether its state cannot drop part of what it read, so that nothing can be drafted for it."""
        return bool(lib.llama_model_is_recurrent(self._ptr) or lib.llama_model_is_hybrid(self._ptr))

    def open(self, spec: ContextSpec) -> LlamaContext:
        return LlamaContext(
            self._ptr,
            spec,
            n_vocab=self._n_columns,
            trees=not self.recurrent,
            exact_holds=self._options.exact_holds,
            inputs=self._inputs,
        )

    def close(self) -> None:
        self._forget_words()
        if self._inputs is not None:
            self._inputs.close()
        if self._ptr:
            lib.llama_model_free(self._ptr)
            self._ptr = None
            pages.trim()

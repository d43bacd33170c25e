"""What the tests of benchmarks/expand.py share: small shapes, and what llama.cpp makes of a file."""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp._ggml import libggml

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from shapes import Shape

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "edgespec" / "demo" / "demo.gguf"
DRAFT = ROOT / "edgespec" / "demo" / "demo-draft.gguf"
N_TOKENS = 500
OWN = Shape(n_embd=384, n_layer=6, n_head=6, n_head_kv=2, head_dim=64, n_ff=1024)
DRAFT_OWN = Shape(n_embd=256, n_layer=3, n_head=4, n_head_kv=1, head_dim=64, n_ff=768)
WIDER = Shape(n_embd=512, n_layer=8, n_head=16, n_head_kv=4, head_dim=64, n_ff=1280)
Make = Callable[..., Path]

libggml.ggml_get_name.argtypes, libggml.ggml_get_name.restype = [ctypes.c_void_p], ctypes.c_char_p
libggml.ggml_nbytes.argtypes, libggml.ggml_nbytes.restype = [ctypes.c_void_p], ctypes.c_size_t
libggml.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
libggml.ggml_backend_tensor_get.restype = None


@dataclass(frozen=True)
class Loaded:
    """A model in llama.cpp, and the development prompts as its tokens."""

    model: ctypes.c_void_p
    tokens: list[int]
    n_vocab: int


@contextmanager
def loaded(path: Path) -> Iterator[Loaded]:
    params = llama_cpp.llama_model_default_params()
    params.use_extra_bufts = False  # kernels that crash on some builds for AMX hosts
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"{path} does not load"
    try:
        vocab = llama_cpp.llama_model_get_vocab(model)
        yield Loaded(model, tokenized(vocab, prompts())[:N_TOKENS], llama_cpp.llama_vocab_n_tokens(vocab))
    finally:
        llama_cpp.llama_model_free(model)


def prompts() -> str:
    lines = (ROOT / "benchmarks" / "data" / "prompts_dev.jsonl").read_text().splitlines()
    turns = [json.loads(line)["turns"][0][:600] for line in lines[::9]]
    return "<|bos|>" + "".join(f"<|user|>{turn}<|end|><|assistant|>" for turn in turns)


def tokenized(vocab: ctypes.c_void_p, text: str) -> list[int]:
    data = text.encode()
    buffer = (llama_cpp.llama_token * len(data))()
    return buffer[: llama_cpp.llama_tokenize(vocab, data, len(data), buffer, len(data), False, True)]


def logits(path: Path, n_batch: int = 125) -> np.ndarray:
    """Returns the logits [N_TOKENS, n_vocab] over the development prompts; f32 KV, no flash attention."""
    with loaded(path) as model:
        return decode(model, context_params(n_batch))


def chosen_experts(path: Path, shape: Shape) -> np.ndarray:
    """Returns the experts [n_layer, N_TOKENS, n_expert_used] that the development prompts are routed to."""
    seen: dict[str, bytes] = {}

    @llama_cpp.ggml_backend_sched_eval_callback
    def watch(tensor: int, ask: bool, _data: object) -> bool:
        name = libggml.ggml_get_name(tensor).decode()
        if name.startswith("ffn_moe_argsort") and not ask:
            buffer = ctypes.create_string_buffer(libggml.ggml_nbytes(tensor))
            libggml.ggml_backend_tensor_get(tensor, buffer, 0, len(buffer))
            seen[name] = seen.get(name, b"") + buffer.raw
        return name.startswith("ffn_moe_argsort") or not ask

    with loaded(path) as model:
        params = context_params(N_TOKENS)
        params.cb_eval = watch
        decode(model, params)
    orders = [np.frombuffer(seen[f"ffn_moe_argsort-{i}"], np.int32) for i in range(shape.n_layer)]
    return np.stack([order.reshape(N_TOKENS, shape.n_expert)[:, : shape.n_expert_used] for order in orders])


def context_params(n_batch: int) -> llama_cpp.llama_context_params:
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = N_TOKENS, n_batch, n_batch
    params.n_threads = params.n_threads_batch = 1  # two would spin in wait where cores are shared
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    return params


def decode(model: Loaded, params: llama_cpp.llama_context_params) -> np.ndarray:
    context = llama_cpp.llama_init_from_model(model.model, params)
    n_batch = params.n_batch
    batch = llama_cpp.llama_batch_init(n_batch, 0, 1)
    rows = []
    for start in range(0, N_TOKENS, n_batch):
        batch.n_tokens = n_batch
        for i in range(n_batch):
            batch.token[i], batch.pos[i], batch.logits[i] = model.tokens[start + i], start + i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        assert llama_cpp.llama_decode(context, batch) == 0
        view = np.ctypeslib.as_array(llama_cpp.llama_get_logits(context), (n_batch * model.n_vocab,))
        rows.append(view.reshape(n_batch, model.n_vocab).copy())
    llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    return np.concatenate(rows)


def divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the mean KL divergence in nats per token."""
    one, two = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (reference, other))
    return float((np.exp(one) * (one - two)).sum(axis=1).mean())


def assert_same_but_for_rounding(exact: np.ndarray, other: np.ndarray) -> None:
    assert divergence(exact, other) < 1e-3
    chosen = other.argmax(axis=1)
    lost = exact.max(axis=1) - exact[np.arange(len(exact)), chosen]
    assert lost.max() < 0.15
    assert (chosen == exact.argmax(axis=1)).mean() > 0.97

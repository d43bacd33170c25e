"""Adapts a drafter to parallel drafting (PARD, arXiv 2504.18583): k - 1 mask rows behind a token predict what follows.

usage: parallel.py TARGET.gguf DRAFT.gguf TEXT.xz OUT.gguf [--seconds S] [--k 8]
Run with demo-training's folder (train.py, to_gguf.py, tok8k.json) on PYTHONPATH, on a GPU or on CPU cores. Needs torch,
tokenizers and gguf. The mask is a token that no text has (<|pad|>); its id is written as tokenizer.ggml.mask_token_id.

Each sequence carries its own tokens and, for some of its positions, a block of k - 1 mask rows that sees the text up to
there and the block's own earlier rows. A row at position n is trained towards the target's distribution at n, knowing
less of the text than the target does. Rows of text stay in the loss, so the adapted drafter still drafts in a chain.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import gguf
import numpy as np
import torch
import torch.nn.functional as F

os.environ.setdefault("WORKD", tempfile.mkdtemp(prefix="parallel-"))
import train as t

if not torch.cuda.is_available():
    t.DEV = "cpu"
import to_gguf
from tokenizers import Tokenizer

MASK, BOS, END = "<|pad|>", "<|bos|>", "<|end|>"
NAMES = {
    "q": "attn_q",
    "k": "attn_k",
    "v": "attn_v",
    "o": "attn_output",
    "g": "ffn_gate",
    "u": "ffn_up",
    "dn": "ffn_down",
}


def load(path: str) -> tuple[t.LM, dict[str, object]]:
    """A llama GGUF with tied embeddings as train.LM, its weights as float32; and its shape."""
    reader = gguf.GGUFReader(path)

    def value(key: str) -> int | float:
        return reader.fields[key].parts[-1][0].item()

    n_heads = value("llama.attention.head_count")
    tensors = {x.name: gguf.quants.dequantize(x.data, x.tensor_type) for x in reader.tensors}
    shape = {
        "V": len(tensors["token_embd.weight"]),
        "d": value("llama.embedding_length"),
        "L": value("llama.block_count"),
        "h": n_heads,
        "kv": value("llama.attention.head_count_kv"),
        "hd": value("llama.attention.key_length"),
        "ff": value("llama.feed_forward_length"),
        "T": 2048,
        "theta": value("llama.rope.freq_base"),
        "ctx": value("llama.context_length"),
    }
    state = {"e.weight": tensors["token_embd.weight"], "n.w": tensors["output_norm.weight"]}
    for i in range(shape["L"]):
        state[f"b.{i}.an.w"] = tensors[f"blk.{i}.attn_norm.weight"]
        state[f"b.{i}.fn.w"] = tensors[f"blk.{i}.ffn_norm.weight"]
        for ours, theirs in NAMES.items():
            state[f"b.{i}.{ours}.weight"] = tensors[f"blk.{i}.{theirs}.weight"]
    model = t.LM(t.Cfg(**shape)).to(t.DEV)
    model.load_state_dict({k: torch.from_numpy(np.array(v, np.float32)) for k, v in state.items()})
    return model, shape


def tokens_of(text_xz: str, n_chars: int) -> np.ndarray:
    """The beginning of the text as one run of ids, chats with their markers."""
    raw = (
        lzma.LZMADecompressor().decompress(Path(text_xz).read_bytes(), 8 * n_chars)[:n_chars].decode("utf-8", "ignore")
    )
    documents = [x.strip("\n") for x in raw.split("<|endoftext|>")]
    documents = [x[:20000] for x in documents if len(x) > 20]
    random.Random(6).shuffle(documents)
    folder = next(p for p in sys.path if os.path.exists(f"{p}/tok8k.json"))
    tokenizer = Tokenizer.from_file(f"{folder}/tok8k.json")
    os.makedirs(t.W, exist_ok=True)
    roles = {r: [f"<|{r}|>"] for r in ("user", "assistant", "system")}
    ids = tokenizer.token_to_id
    return t.encode_all(tokenizer, documents, roles, ids(BOS), ids(END), f"{t.W}/parallel.bin")


def rows_for(ids: torch.Tensor, anchors: torch.Tensor, k: int, mask_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids [B, T + A(k-1)] of text and mask blocks, and positions of the same shape; anchors int [B, A]."""
    batch, n_text = ids.shape
    position = (anchors[:, :, None] + torch.arange(1, k, device=ids.device)).reshape(batch, -1)
    masks = torch.full_like(position, mask_id)
    text_position = torch.arange(n_text, device=ids.device).expand(batch, n_text)
    return torch.cat([ids, masks], 1), torch.cat([text_position, position], 1)


def sight(anchors: torch.Tensor, n_text: int, k: int) -> torch.Tensor:
    """bool [B, 1, n, n]: which rows a row may look at."""
    batch, n_anchors = anchors.shape
    dev = anchors.device
    until = torch.cat([torch.arange(n_text, device=dev).expand(batch, n_text), anchors.repeat_interleave(k - 1, 1)], 1)
    block = torch.cat(
        [torch.full((n_text,), -1, device=dev), torch.arange(n_anchors, device=dev).repeat_interleave(k - 1)]
    )
    place = torch.cat(
        [torch.zeros(n_text, device=dev, dtype=torch.long), torch.arange(k - 1, device=dev).repeat(n_anchors)]
    )
    n = len(block)
    text = until[:, :, None] >= torch.arange(n, device=dev)[None, None, :]
    text &= (torch.arange(n, device=dev) < n_text)[None, None, :]
    own = (block[:, None] == block[None, :]) & (block[:, None] >= 0) & (place[:, None] >= place[None, :])
    return (text | own[None])[:, None]


def hidden(m: t.LM, ids: torch.Tensor, position: torch.Tensor, seen: torch.Tensor | None) -> torch.Tensor:
    """Final hidden states with explicit positions [B, n] and sight; seen None: causal over ids."""
    c = m.c
    freq = 1.0 / c.theta ** (torch.arange(0, c.hd, 2, device=ids.device).float() / c.hd)
    angle = position[:, None, :, None].float() * freq
    cos, sin = angle.cos(), angle.sin()

    def turned(x: torch.Tensor) -> torch.Tensor:
        a, b = x[..., 0::2], x[..., 1::2]
        co, si = cos.to(x.dtype), sin.to(x.dtype)
        return torch.stack((a * co - b * si, a * si + b * co), -1).flatten(-2)

    x = m.e(ids)
    batch, n, _ = x.shape
    for b in m.b:
        h = b.an(x)
        q = turned(b.q(h).view(batch, n, c.h, c.hd).transpose(1, 2))
        k = turned(b.k(h).view(batch, n, c.kv, c.hd).transpose(1, 2)).repeat_interleave(c.h // c.kv, 1)
        v = b.v(h).view(batch, n, c.kv, c.hd).transpose(1, 2).repeat_interleave(c.h // c.kv, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, is_causal=seen is None)
        x = x + b.o(y.transpose(1, 2).reshape(batch, n, c.h * c.hd))
        h = b.fn(x)
        x = x + b.dn(F.silu(b.g(h)) * b.u(h))
    return m.n(x)


class Batches:
    def __init__(self, data: np.ndarray, n_text: int, batch: int, n_anchors: int, k: int) -> None:
        self.data = torch.from_numpy(data.astype(np.int64)).to(t.DEV)
        self.n_text, self.batch, self.n_anchors, self.k = n_text, batch, n_anchors, k
        self.n_train = len(data) - max(len(data) // 50, 4 * n_text)
        self.random = torch.Generator(device=t.DEV).manual_seed(3)

    def draw(self, held_out: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Text [B, T] and sorted anchors [B, A] whose whole block has a teacher's row."""
        low, high = (self.n_train, len(self.data)) if held_out else (0, self.n_train)
        start = torch.randint(low, high - self.n_text, (self.batch,), device=t.DEV, generator=self.random)
        ids = self.data[start[:, None] + torch.arange(self.n_text, device=t.DEV)]
        last = self.n_text - self.k
        anchors = torch.rand(self.batch, last, device=t.DEV, generator=self.random).argsort(1)[:, : self.n_anchors]
        return ids, anchors.sort(1).values


def compare(
    draft: t.LM, target: t.LM, batches: Batches, mask_id: int, held_out: bool, chunk: int = 8192
) -> tuple[torch.Tensor, list[float]]:
    """The loss of rows of text and of masks, and how often first tokens agree by place in the block, text first."""
    k = batches.k
    ids, anchors = batches.draw(held_out)
    rows, position = rows_for(ids, anchors, k, mask_id)
    with torch.autocast(t.DEV, torch.bfloat16):
        with torch.no_grad():
            taught = hidden(target, ids, position[:, : ids.shape[1]], None)
        h = hidden(draft, rows, position, sight(anchors, ids.shape[1], k))
    taught = torch.gather(taught, 1, position[:, :, None].expand(-1, -1, taught.shape[-1]))
    h, taught = h.reshape(-1, h.shape[-1]), taught.reshape(-1, taught.shape[-1])
    place = torch.cat([torch.zeros(ids.shape[1]), torch.arange(1, k).repeat(anchors.shape[1])]).repeat(len(ids))
    loss, agreed = 0.0, torch.zeros(k)
    e, te = draft.e.weight.to(torch.bfloat16), target.e.weight.to(torch.bfloat16)
    for start in range(0, len(h), chunk):
        part = slice(start, start + chunk)
        with torch.no_grad():
            logits = (taught[part].to(torch.bfloat16) @ te.t()).float()
            probs, best = F.softmax(logits, -1), logits.argmax(-1)

        def divergence(x: torch.Tensor, probs: torch.Tensor = probs) -> tuple[torch.Tensor, torch.Tensor]:
            ours = (x.to(torch.bfloat16) @ e.t()).float()
            return -(probs * F.log_softmax(ours, -1)).sum(), ours.argmax(-1)

        if held_out:
            lost, ours = divergence(h[part])
            agreed += torch.bincount(place[part].long(), (ours == best).float().cpu(), minlength=k)
        else:
            lost, _ = torch.utils.checkpoint.checkpoint(divergence, h[part], use_reentrant=False)
        loss = loss + lost / len(h)
    n = torch.bincount(place.long(), minlength=k)
    return loss, (agreed / n).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("target", "draft", "text", "out"):
        parser.add_argument(name)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--k", type=int, default=8)
    parser.add_argument("--chars", type=int, default=60_000_000)
    args = parser.parse_args()
    on_gpu = t.DEV == "cuda"
    start = time.time()
    target, _ = load(args.target)
    draft, shape = load(args.draft)
    folder = next(p for p in sys.path if os.path.exists(f"{p}/tok8k.json"))
    tokenizer = Tokenizer.from_file(f"{folder}/tok8k.json")
    mask_id = tokenizer.token_to_id(MASK)
    data = tokens_of(args.text, args.chars)
    print(f"{len(data) / 1e6:.1f} M tokens after {time.time() - start:.0f} s", flush=True)
    batches = Batches(data, 512, 48 if on_gpu else 2, 64, args.k)
    optimiser = torch.optim.AdamW(draft.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    begun, step, average = time.time(), 0, None
    while (share := (time.time() - begun) / args.seconds) < 1:
        rate = 1e-3 * min(1, (share + 1e-3) / 0.03) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        loss, _ = compare(draft, target, batches, mask_id, held_out=False)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        if step % 50 == 0 or step == 1:
            average = loss.item() if average is None else 0.7 * average + 0.3 * loss.item()
            print(f"step {step} at {share:.2f}: {average:.3f}", flush=True)
    with torch.no_grad():
        found = [compare(draft, target, batches, mask_id, held_out=True) for _ in range(8 if on_gpu else 40)]
    agreement = np.mean([a for _, a in found], 0).round(4).tolist()
    report = {
        "steps": step,
        "seconds": args.seconds,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "rows": step * batches.batch * (512 + 64 * (args.k - 1)),
        "held_out_loss": float(np.mean([x.item() for x, _ in found])),
        "agreement_by_place": agreement,
    }
    print(json.dumps(report), flush=True)
    special = {"bos": tokenizer.token_to_id(BOS), "eos": tokenizer.token_to_id(END), "eot": tokenizer.token_to_id(END)}
    template = next(iter(gguf.GGUFReader(args.draft).fields["tokenizer.chat_template"].parts[-1:])).tobytes().decode()

    def vocabulary(writer: gguf.GGUFWriter) -> None:
        to_gguf.tokenizer_kv(writer, f"{folder}/tok8k.json", "llama-bpe", special, template, shape["V"])
        writer.add_mask_token_id(mask_id)

    weights = {name: value.float().cpu().numpy() for name, value in draft.state_dict().items()}
    to_gguf.write(weights, shape, args.out, vocabulary, to_gguf.Q.Q8_0, "demo-draft, parallel")
    Path(args.out).with_suffix(".json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

"""What this host's build of the runtime survives and promises, found once in child processes and remembered.

Built for the wrong processor the runtime dies with a signal at its first pass (docs/design.md section 8: AMX), and
whether a row depends on the width of its pass is a fact of build, processor and KV type: both are tried, not assumed.
Not covered: speed (calibration measures it).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgespec.backends.base import Context
from edgespec.backends.llama_cpp import runtime
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.errors import BackendError, DoesNotFit
from edgespec.types import ContextSpec, Floats, Ids, Span, TokenTree

TIMEOUT_S = 180
N_PAST = 600  # past 512 cells, where one-row passes begin to split the cache over threads
N_ROUNDS = 12
WIDTHS = (1, 2, 3, 8, 31)
N_UBATCH = 64  # two contexts lie beside everything else for a moment
# What a child takes of the memory meanwhile (49 MiB on Linux with Python 3.11), and a little more.
TRY_BYTES = 56 << 20


@dataclass(frozen=True)
class HostFacts:
    """extra_buffers: repacked weights decode here without dying; exact: the recipe of --exact gives rows that depend
    neither on the width of their pass nor on rejected siblings; row_depends_on_width: without it, they do."""

    extra_buffers: bool
    exact: bool
    row_depends_on_width: bool


def host_facts(
    probe: Path,
    cache_dir: Path,
    notice: Callable[[str], None] = lambda _: None,
    free_bytes: Callable[[], int] | None = None,
) -> HostFacts:
    """The remembered facts of this build on this processor, tried out on the small model `probe` at first use.

    free_bytes: what is free now; None: as much as it takes.
    Raises BackendError where the runtime dies under every load option, DoesNotFit where a child killed for its memory
    would look like that.
    """
    remembered = cache_dir / f"selftest-{runtime.build_id()}.json"
    try:
        return HostFacts(**json.loads(remembered.read_text()))
    except (OSError, ValueError, TypeError):
        notice("trying out the runtime on this machine (once)")
    free = free_bytes() if free_bytes else TRY_BYTES
    if free < TRY_BYTES:
        has, lacks = free / (1 << 20), (TRY_BYTES - free) / (1 << 20)
        raise DoesNotFit(
            f"the first start tries out the runtime, which takes {TRY_BYTES >> 20} MiB for a moment beside the "
            f"programs, and {has:.3g} MiB are free; free {lacks:.3g} MiB more this once"
        )
    endings = []
    for extra_buffers in (True, False):
        facts, ending = _try(probe, extra_buffers)
        if facts is not None:
            _remember(remembered, facts)
            return facts
        endings.append(ending)
    raise BackendError(
        f"the runtime cannot decode on this machine ({'; '.join(endings)}); build it again with "
        "`make setup`, or with CMAKE_ARGS=-DGGML_NATIVE=OFF where it was built by hand"
    )


def _remember(path: Path, facts: HostFacts) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(asdict(facts), file)
        os.replace(file.name, path)
    except OSError:
        return  # a full or read-only disk costs the next start some seconds, nothing else


def _try(probe: Path, extra_buffers: bool) -> tuple[HostFacts | None, str]:
    """Facts from a child, or how it ended."""
    command = [
        sys.executable,
        "-m",
        "edgespec.backends.llama_cpp.selftest",
        str(probe),
        str(int(extra_buffers)),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer in {TIMEOUT_S} s"
    if done.returncode == 0:
        return HostFacts(**json.loads(done.stdout.splitlines()[-1])), ""
    last = (done.stderr.strip().splitlines() or [""])[-1]
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return None, f"{how}{': ' + last if last else ''}"


def measure(probe: Path, extra_buffers: bool) -> HostFacts:
    """Decode for real, in this process: dies where the host does not survive it."""
    model = LlamaModel(probe, LoadOptions(extra_buffers=extra_buffers))
    exact = all(rows_agree(model, kv_type, exact=True) for kv_type in ("f16", "q8_0"))
    depends = not rows_agree(model, "f16", exact=False)
    model.close()
    return HostFacts(extra_buffers, exact, depends)


def rows_agree(
    model: LlamaModel,
    kv_type: str,
    *,
    exact: bool,
    n_threads: int | None = None,
    n_past: int = N_PAST,
    n_rounds: int = N_ROUNDS,
) -> bool:
    """Whether rows of trees equal lone rows, bit by bit, on this model's own weights."""
    ids = np.random.default_rng(0).integers(0, model.n_vocab, n_past + n_rounds * 20).astype(np.int32)
    spec = ContextSpec(len(ids) + 64, 1, 32, 17, kv_type, N_UBATCH, n_threads, exact)
    wide, lone = model.open(spec), model.open(spec)
    for context in (wide, lone):
        context.prefill(0, ids[:n_past])
    agree = not any(_round_differs(wide, lone, ids[wide.length(0) :], WIDTHS[i % len(WIDTHS)]) for i in range(n_rounds))
    wide.close()
    lone.close()
    return agree


def _round_differs(wide: Context, lone: Context, ids: Ids, width: int) -> bool:
    """Whether a pass of `width` rows differs from lone rows, on the accepted spine of a comb.

    Every level of the comb has a rejected sibling in front of the node that is kept.
    """
    node = np.arange(width, dtype=np.int32)
    parent = (node - 1) // 2 * 2
    parent[0] = -1
    comb = TokenTree(ids[:width], parent, ((node + 1) // 2).astype(np.int16), np.zeros(width, np.float32))
    rows: Floats = wide.evaluate([Span(0, comb, node)]).logits.copy()
    wide.keep(0, node[::2].tolist())
    found = False
    for spine in node[::2]:
        row = lone.evaluate([Span(0, _lone(int(ids[spine])), [0])]).logits[0]
        found |= bool(np.any(row != rows[spine]))
        lone.keep(0, [0])
    return found


def _lone(token: int) -> TokenTree:
    """A tree of one node."""
    zero = np.zeros(1, np.int32)
    return TokenTree(zero + token, zero - 1, zero.astype(np.int16), zero.astype(np.float32))


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Path(sys.argv[1]), sys.argv[2] == "1"))))

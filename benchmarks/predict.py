"""How near predicted bytes come: against the runtime's own figures and against the growth of a process's PSS.

    python benchmarks/predict.py            # about 6 minutes; models are made as `make models-memory` does

Every configuration is opened in a process of its own, which weighs itself before the load and after the first pass of
full width (rows of a tree and all it may read of a prompt beside them). The prediction for that moment leaves out the
part of the mask that only a longer conversation writes to; `total_bytes` has all of it. Asked: the total within
max(2 %, 4 MiB), every component above 8 MiB within 5 % of the runtime's figure. Files of small models are copied, so
that no other process shares their pages.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from record import ROOT, write

from edgespec.backends.llama_cpp import devices, runtime
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.backends.llama_cpp.model import LlamaModel
from edgespec.gguf.shape import read_shape
from edgespec.memory.fitted import surface
from edgespec.memory.footprint import Footprint, joined
from edgespec.memory.host import Host
from edgespec.memory.measure import Weighing, runtime_figures
from edgespec.memory.predict import Part, predict
from edgespec.speculation.tree import chain
from edgespec.types import ContextSpec, Span

MODELS = ROOT / ".cache" / "models"
DEMO = ROOT / "edgespec" / "demo"
N_THREADS = 2
SMALL_BYTES = 500 << 20


@dataclass(frozen=True)
class Case:
    model: str
    n_ctx: int
    rows: int
    kv: str
    n_ubatch: int
    draft: str | None = None

    def spec(self, drafts: bool = False) -> ContextSpec:
        """A tree of half as many leaves as rows; a drafter's context reads four beams of it."""
        rows = max(self.rows, 16) if drafts else self.rows + 1
        leaves = max(self.rows // 2, 1) * (2 if drafts else 1)
        kv = "f16" if drafts else self.kv
        return ContextSpec(
            self.n_ctx, max_nodes=rows, max_leaves=leaves, kv_type=kv, n_ubatch=self.n_ubatch, n_threads=N_THREADS
        )


def cases() -> Iterator[Case]:
    """Every model with every KV type, contexts, trees and prompt widths in turn, every second one with a drafter."""
    contexts, rows, widths = (512, 2048, 4096, 8192, 32768), (0, 8, 32, 128), (512, 64, 16, 256)
    names = ("demo", "0.5b-q4_0", "0.5b-q8_0", "1b-f16", "1b-q4_0", "1b-f16-152k", "3b-q4_0", "moe-q4_0")
    n = 0
    for name in names:
        for kv in ("f16", "q8_0", "q4_0"):
            for step in range(3):
                draft = None if n % 2 else ("draft-152k" if "152k" in name else "demo-draft")
                n_ctx = contexts[(n + step) % len(contexts)]
                yield Case(name, n_ctx, rows[(n // 2) % len(rows)], kv, widths[(n + 2 * step) % len(widths)], draft)
                n += 1


def path_of(name: str) -> Path:
    return DEMO / f"{name}.gguf" if name.startswith("demo") else MODELS / f"demo-{name}.gguf"


def child(case: Case, paths: list[Path]) -> dict[str, Any]:
    """In a process of its own: what a configuration is predicted to take, and took."""
    runtime.start()
    host = Host(repacks=devices.repacked_types(), n_threads=N_THREADS)
    rng = np.random.default_rng(0)
    rng.integers(0, 5, 5)  # numpy's generators are code too, and not the model's
    roles = ["", "draft "][: len(paths)]
    specs = [case.spec(drafts=bool(role)) for role in roles]
    shapes = [read_shape(path) for path in paths]
    figures = [runtime_figures(p, LoadOptions(), [s], trees=True)[0] for p, s in zip(paths, specs, strict=True)]
    fitted = [
        None if shape.llama_like else surface(path, shape, LoadOptions(), specs[0])(spec)
        for path, shape, spec in zip(paths, shapes, specs, strict=True)
    ]
    parts = [
        Part(shape, spec, role=role, compute=c)
        for shape, spec, role, c in zip(shapes, specs, roles, fitted, strict=True)
    ]
    predicted = joined(predict(part, host) for part in parts)
    first = joined(predict(replace(part, n_used=_first_pass(part.spec)), host) for part in parts)
    weighing = Weighing.begin()
    models = [LlamaModel(path, LoadOptions()) for path in paths]
    for model, spec in zip(models, specs, strict=True):
        model.pieces(), model.end_ids
        context = model.open(spec)
        n_silent = _first_pass(spec) - spec.max_nodes
        ids = rng.integers(0, model.n_vocab, _first_pass(spec)).tolist()
        nodes = np.arange(len(ids), dtype=np.int32)
        context.evaluate([Span(0, chain(ids), nodes, n_silent=n_silent)])
        context.keep(0, [])
    measured = weighing.growth()["cpu"]
    loaded = [sum(model.buffers.values()) for model in models]
    at_first = first.total_bytes
    return {
        "predicted": _itemised(predicted),
        "at_first_bytes": at_first,
        "runtime": _runtime(roles, figures, loaded),
        "pss_bytes": measured,
    }


def _first_pass(spec: ContextSpec) -> int:
    """Tokens of the first pass: rows and all it may read of a prompt."""
    return spec.max_nodes + min(spec.n_ubatch, spec.n_ctx - 1)


def _itemised(footprint: Footprint) -> dict[str, int]:
    return {name: footprint.of(name) for name in dict.fromkeys(item.component for item in footprint.items)}


def _runtime(roles: list[str], figures: list[Any], loaded: list[int]) -> dict[str, int]:
    found = {}
    for role, figure, weights in zip(roles, figures, loaded, strict=True):
        found |= {f"{role}loaded weights": weights, f"{role}kv": figure.kv_bytes}
        found |= {f"{role}compute": sum(figure.compute.values()), f"{role}output": figure.output_bytes}
    return found


def run(case: Case) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name in filter(None, (case.model, case.draft)):
            path = path_of(name)
            if path.stat().st_size < SMALL_BYTES:
                path = Path(shutil.copy(path, Path(folder) / path.name))
            paths.append(str(path))
        command = [sys.executable, __file__, "--child", json.dumps(asdict(case)), *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return judged(case, json.loads(done.stdout.splitlines()[-1]))


def judged(case: Case, found: dict[str, Any]) -> dict[str, Any]:
    """With the total's error and every component's that is above 8 MiB."""
    total, pss = found["at_first_bytes"], found["pss_bytes"]
    errors = {}
    for name, said in found["runtime"].items():
        # Rearranged weights are copies beside mappings that the runtime still counts: only the process tells there.
        repacked = name.endswith("loaded weights") and said > 1.05 * found["predicted"][name.replace("loaded ", "")]
        ours = None if repacked else found["predicted"].get(name.replace("loaded ", ""))
        if ours is None or said <= 8 << 20 or name.endswith("output"):
            continue  # the output buffer is grown by the first pass; the runtime's figure is from before
        errors[name] = round(ours / said - 1, 4)
    return {
        **asdict(case),
        **found,
        "total_bytes": sum(found["predicted"].values()),
        "error": round(total / pss - 1, 4),
        "error_bytes": total - pss,
        "within": abs(total - pss) <= max(0.02 * pss, 4 << 20),
        "component_errors": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=int)
    asked = parser.parse_args()
    if asked.child:
        case, *paths = asked.child
        print(json.dumps(child(Case(**json.loads(case)), [Path(p) for p in paths])))
        return
    rows = []
    for case in list(cases())[: asked.limit]:
        rows.append(run(case))
        row = rows[-1]
        print(
            case,
            f"{row['pss_bytes'] / 2**20:.1f} MiB, {row['error_bytes'] / 2**20:+.2f} MiB, {row['error']:+.2%}",
            "" if row["within"] else "  <<<",
            row["component_errors"],
            flush=True,
        )
    print(write("predict", {"n_within": sum(r["within"] for r in rows), "n": len(rows), "cases": rows}))


if __name__ == "__main__":
    main()

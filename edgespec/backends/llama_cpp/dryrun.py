"""What contexts of a model would take, asked of the runtime with nothing allocated; in a child process.

`no_alloc` loads metadata and plays every allocation through (src/llama-context.cpp, sched_reserve): some milliseconds a
context. The runtime aborts on some of its assertions there, which is why a child asks. Only the output buffer of a
context is really made, and freed. Not covered: weights, whose sizes stand in the header, and decoding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as lib

from edgespec.backends.llama_cpp import figures, runtime
from edgespec.backends.llama_cpp.dimensions import dimensions
from edgespec.backends.llama_cpp.figures import Figures
from edgespec.backends.llama_cpp.load import LoadOptions, model_params
from edgespec.backends.llama_cpp.parameters import context_params
from edgespec.errors import BackendError
from edgespec.types import ContextSpec

TIMEOUT_S = 120


@dataclass(frozen=True)
class Asked:
    """trees: the model can drop part of its state."""

    path: Path
    options: LoadOptions
    specs: Sequence[ContextSpec]
    trees: bool = True


def dry_run(asked: Asked) -> list[Figures]:
    """The runtime's figures for each spec; raises BackendError where it refuses the model or dies."""
    order = {
        "path": os.fspath(asked.path),
        "options": asdict(asked.options),
        "specs": [asdict(spec) for spec in asked.specs],
        "trees": asked.trees,
    }
    command = [sys.executable, "-m", "edgespec.backends.llama_cpp.dryrun"]
    try:
        done = subprocess.run(
            command, input=json.dumps(order), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"the runtime gave no figures for {asked.path.name} in {TIMEOUT_S} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
        raise BackendError(f"the runtime gives no figures for {asked.path.name}: {last}")
    return [Figures(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def ask(path: Path, options: LoadOptions, specs: Sequence[ContextSpec], trees: bool) -> list[Figures]:
    """In this process: may abort it. Raises BackendError."""
    runtime.start()
    given = model_params(options, allocate=False)
    runtime.log.clear()
    model = lib.llama_model_load_from_file(os.fsencode(path), given.struct)
    if not model:
        raise BackendError(runtime.log.reason() or "it could not be loaded")
    found = []
    for spec in specs:
        runtime.log.clear()
        context = lib.llama_init_from_model(model, context_params(spec, dimensions(spec, trees)))
        if not context:
            raise BackendError(runtime.log.reason() or "a context could not be opened")
        found.append(figures.read(runtime.log.lines()))
        lib.llama_free(context)
    lib.llama_model_free(model)
    return found


def _main(order: dict[str, Any]) -> None:
    options = LoadOptions(**{**order["options"], "tensor_split": tuple(order["options"]["tensor_split"])})
    specs = [ContextSpec(**spec) for spec in order["specs"]]
    try:
        found = ask(Path(order["path"]), options, specs, order["trees"])
    except BackendError as error:
        sys.exit(str(error))
    print(json.dumps([asdict(each) for each in found]))


if __name__ == "__main__":
    _main(json.loads(sys.stdin.read()))

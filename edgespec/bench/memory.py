"""Peak memory of a method as a user would run it: the whole model process, in a pass of its own.

PSS (proportional set size: shared pages count by share, mapped weights as far as they are in memory) is sampled while
the process loads and answers; the sampling would disturb a timed run. Not covered: predicting it (memory).
"""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from edgespec.errors import Cancelled
from edgespec.memory.measure import pss
from edgespec.service.messages import Progress
from edgespec.service.supervisor import Supervisor
from edgespec.settings import Settings
from edgespec.types import Message, Sampling

EVERY_S = 0.02


def measure_memory(
    settings: Settings,
    turns: Sequence[Message],
    sampling: Sampling,
    max_tokens: int,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """pss_bytes and device_bytes (None where no device tells) at their peak, and what each stage added to PSS.

    Raises what loading and answering raise, Cancelled.
    """
    with Supervisor(most_deaths=1) as worker:  # another process, with another plan, would be another figure
        watch = _Watch(worker.pid)
        with watch:
            watch.enter("program")
            worker.load(settings, progress=lambda event: watch.enter(_stage(event, watch)))
            watch.enter("answering")
            for _ in worker.generate(turns, sampling, max_tokens):
                if cancelled():
                    raise Cancelled("stopped")
    return {"pss_bytes": watch.peak(), "device_bytes": watch.device_bytes, "stages": watch.stages()}


def _stage(event: Progress, watch: _Watch) -> str:
    """The stage that begins with this report: weights, then the drafter's, then what is opened on them."""
    if not event.what.startswith("loading "):
        return watch.stage  # trials and checks belong to what is being loaded
    name = event.what.removeprefix("loading ")
    watch.models.setdefault(name, len(watch.models))
    if event.done >= 1:
        return "caches and buffers"
    return "weights" if watch.models[name] == 0 else "drafter"


@dataclass
class _Watch:
    """Samples one process's memory from a thread; enter() says what it is doing from then on."""

    pid: int
    device_bytes: int | None = None
    models: dict[str, int] = field(default_factory=dict)
    _peaks: dict[str, int] = field(default_factory=dict)
    stage: str = "program"
    _done: threading.Event = field(default_factory=threading.Event)

    def enter(self, stage: str) -> None:
        self._look()
        if stage == "drafter":  # what came after the weights was no cache yet
            self._peaks.pop("caches and buffers", None)
        self.stage = stage

    def __enter__(self) -> _Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.device_bytes = _device_bytes(self.pid)

    def _run(self) -> None:
        while not self._done.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        with contextlib.suppress(psutil.Error):
            n_bytes = pss(self.pid)
            self._peaks[self.stage] = max(self._peaks.get(self.stage, 0), n_bytes)

    def peak(self) -> int:
        return max(self._peaks.values(), default=0)

    def stages(self) -> list[dict[str, Any]]:
        """Increments of the running peak, in the order of the stages; they add up to the peak."""
        found, before = [], 0
        for what, peak in self._peaks.items():
            found.append({"what": what, "bytes": max(peak - before, 0)})
            before = max(before, peak)
        return found


def _device_bytes(pid: int) -> int | None:
    """What the process holds on NVIDIA devices, as the driver says; None where there is none to ask."""
    command = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [line.split(",") for line in said.splitlines() if line.count(",") == 1]
    found = [int(mib) for owner, mib in rows if owner.strip() == str(pid) and mib.strip().isdigit()]
    return sum(found) << 20 if found else None

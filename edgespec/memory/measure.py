"""Bytes as they are: what the runtime says without allocating, what a process holds, what devices have left.

The runtime's figures are remembered by file, build and options (store/calibration.py). Not covered: predicting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from edgespec.backends.llama_cpp import devices, runtime
from edgespec.backends.llama_cpp.dryrun import Asked, dry_run
from edgespec.backends.llama_cpp.figures import Figures
from edgespec.backends.llama_cpp.load import LoadOptions
from edgespec.memory.footprint import CPU
from edgespec.store import calibration
from edgespec.types import ContextSpec


def runtime_figures(path: Path, options: LoadOptions, specs: Sequence[ContextSpec], trees: bool) -> list[Figures]:
    """The runtime's own figures for each spec, nothing allocated: from an earlier time, else asked in one go.

    Raises BackendError where the runtime gives none.
    """
    keys = [_key(path, options, spec, trees) for spec in specs]
    known: dict[str, Figures] = {}
    for key in keys:
        saved = calibration.load(key)
        if saved is not None and set(saved) == set(Figures.__dataclass_fields__):
            known[key] = Figures(**saved)
    missing = {key: spec for key, spec in zip(keys, specs, strict=True) if key not in known}
    if missing:
        found = dry_run(Asked(path, options, list(missing.values()), trees))
        for key, figures in zip(missing, found, strict=True):
            known[key] = figures
            calibration.save(key, asdict(figures))
    return [known[key] for key in keys]


def _key(path: Path, options: LoadOptions, spec: ContextSpec, trees: bool) -> str:
    names = ",".join(device.name for device in devices.devices())
    return calibration.key(
        path,
        runtime=runtime.build_id(),
        machine=names,
        kv_type=spec.kv_type,
        n_threads=spec.n_threads or 0,
        options=f"figures, {options}, {spec}, trees={trees}",
    )


def by_device(buffers: Mapping[str, int]) -> dict[str, int]:
    """Bytes by device of buffers named as the runtime names them: "CUDA0" is a device, "CPU_REPACK" and "CUDA_Host"
    are the processor's."""
    names = [device.name for device in devices.devices()]
    found: dict[str, int] = {}
    for buffer, n_bytes in buffers.items():
        place = next((name for name in names if buffer == name), CPU)
        found[place] = found.get(place, 0) + n_bytes
    return found


def pss(pid: int | None = None) -> int:
    """Bytes of a process (None: this one): shared pages by their share; where the system knows no PSS, the unique set,
    else the resident one. Raises psutil.Error where it is gone."""
    process = psutil.Process(pid)
    try:
        full = process.memory_full_info()
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    return int(getattr(full, "pss", 0) or getattr(full, "uss", 0) or full.rss)


@dataclass(frozen=True)
class Weighing:
    """What this process and the devices held when it began; `growth` is what came on top."""

    pss_bytes: int
    free_bytes: Mapping[str, int]

    @classmethod
    def begin(cls) -> Weighing:
        return cls(pss(), {device.name: device.free_bytes for device in devices.devices() if not device.shared})

    def growth(self) -> dict[str, int]:
        """Bytes by device, "cpu" for the processor's; of a device that others use too, theirs count as well."""
        now = {device.name: device.free_bytes for device in devices.devices()}
        found = {CPU: pss() - self.pss_bytes}
        return found | {name: free - now[name] for name, free in self.free_bytes.items() if name in now}

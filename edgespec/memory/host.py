"""What of the machine and the runtime's build decides bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Host:
    """repacks        weight types of which the processor's backend keeps a rearranged copy; none with extra buffers off
    devices        the runtime's names of its devices, in its order; () where the processor does everything
    n_threads      of a pass
    program_bytes  what the processes take before a model is loaded
    margin_bytes   what a budget must have on top: predictions err by so much
    """

    repacks: frozenset[str] = frozenset()
    devices: tuple[str, ...] = ()
    n_threads: int = 1
    program_bytes: int = 0
    margin_bytes: int = 0

    @property
    def beside_bytes(self) -> int:
        """What a budget holds beside models."""
        return self.program_bytes + self.margin_bytes

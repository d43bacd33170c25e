"""What the runtime says of its buffers, as it logs it."""

from __future__ import annotations

import pytest

from edgespec.backends.llama_cpp import figures
from edgespec.backends.llama_cpp.runtime import Log

LOG = """\
load_tensors:   CPU_Mapped model buffer size =  1918.35 MiB
load_tensors:   CPU_REPACK model buffer size =   512.00 MiB
load_tensors:        CUDA0 model buffer size =   100.50 MiB
llama_context:        CPU  output buffer size =     0.25 MiB
llama_kv_cache:        CPU KV buffer size =     0.00 MiB
llama_kv_cache: size =   12.00 MiB (  4096 cells,   6 layers,  8/1 seqs), K (f16):    6.00 MiB, V (f16):    6.00 MiB
llama_kv_cache: size =    3.00 MiB (   512 cells,   3 layers,  8/1 seqs), K (f16):    1.50 MiB, V (f16):    1.50 MiB
llama_memory_recurrent: size =    1.50 MiB (     1 cells,  24 layers,  1 seqs  0 rs_seq), R (f32):    0.50 MiB
sched_reserve:      CUDA0 compute buffer size =    13.50 MiB
sched_reserve:        CPU compute buffer size =     2.00 MiB
""".splitlines()
MIB = 1 << 20


def test_every_buffer_finds_its_place() -> None:
    """Fails when a line changes its words: a cache of two parts is their sum, whatever its own buffer says."""
    found = figures.read(LOG)
    assert found.weights == {"CPU_Mapped": round(1918.35 * MIB), "CPU_REPACK": 512 * MIB, "CUDA0": 100.5 * MIB}
    assert found.compute == {"CUDA0": 13.5 * MIB, "CPU": 2 * MIB}
    assert (found.kv_bytes, found.recurrent_bytes, found.output_bytes) == (15 * MIB, 1.5 * MIB, 0.25 * MIB)


@pytest.mark.parametrize(("level", "kept"), [(1, False), (2, True), (3, True), (4, True)])
def test_the_log_keeps_all_but_debugging(level: int, kept: bool) -> None:
    """Fails when hundreds of lines about single tensors push out the sizes."""
    log = Log()
    log.feed(level, b"a line\n")
    assert bool(log.lines()) is kept

"""How to build llama-cpp-python on this machine: safe and fast cmake arguments, and the name of the result.

Standard library only and free of side effects: `tools/setup.py` runs it before anything is installed, and the
CLI asks it for one sentence about an unused GPU. Not covered: running the build (tools/), load options.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from edgespec.backends.llama_cpp import gpu
from edgespec.backends.llama_cpp.gpu import Facts

# CPU flags whose ggml option is ON by default once GGML_NATIVE is OFF: named only where they must go.
_X86_DEFAULTS = (
    ("sse4_2", "SSE42"),
    ("avx", "AVX"),
    ("avx2", "AVX2"),
    ("bmi2", "BMI2"),
    ("fma", "FMA"),
    ("f16c", "F16C"),
)
# GGML_AVX512 compiles with the first five of these, and the compiler takes the other three for granted.
_AVX512_BASE = frozenset(("avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw", "avx2", "fma", "f16c"))
_AVX512_MORE = (("avx512vbmi", "VBMI"), ("avx512_vnni", "VNNI"), ("avx512_bf16", "BF16"))
_ARM_MORE = (("asimdhp", "fp16"), ("asimddp", "dotprod"), ("i8mm", "i8mm"))
# Optional instructions that ggml takes for granted on these rarer machines.
_RARE_DEFAULTS = {
    "riscv64": ("RVV", "RV_ZFH", "RV_ZVFH", "RV_ZICBOP", "RV_ZIHINTPAUSE"),
    "loongarch64": ("LASX", "LSX"),
}
_X86 = ("x86_64", "amd64", "i386", "i686")
_ARM = ("aarch64", "arm64")
# Minutes on one core; the CPU's is measured (2 cores: 4 minutes), what a GPU adds is estimated.
_CPU_MINUTES = 8
_GPU_MINUTES = {"CUDA": 90, "HIP": 90, "VULKAN": 25}


@dataclass(frozen=True)
class BuildPlan:
    """What to build.

    cmake_args  the value of CMAKE_ARGS
    target      "cpu", "cuda", "hip", "vulkan", "metal", or "custom" for the user's own arguments
    prebuilt    llama-cpp-python's wheel indexes worth trying before building, best first
    warning     one sentence with the command that mends it, where a GPU stays unused
    """

    cmake_args: str
    target: str
    prebuilt: tuple[str, ...] = ()
    warning: str | None = None


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Features that every processor of a /proc/cpuinfo text has; empty where it lists none."""
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, flags=re.MULTILINE)
    return frozenset.intersection(*(frozenset(line.split()) for line in lines)) if lines else frozenset()


def cpu_args(arch: str, cpuinfo: str) -> tuple[str, ...]:
    """cmake arguments for this CPU: what its flags list and nothing else, never AMX.

    GGML_NATIVE is always OFF: the compiler's native flags take in AMX, whose tile set-up GCC 12 miscompiles
    (docs/design.md section 8). Where the CPU is unknown that is all, and ggml's portable defaults stand.
    """
    native_off = ("-DGGML_NATIVE=OFF",)
    flags = cpu_flags(cpuinfo)
    if arch in _RARE_DEFAULTS:
        return native_off + tuple(f"-DGGML_{name}=OFF" for name in _RARE_DEFAULTS[arch])
    if arch in _X86 and flags:
        return native_off + _x86_args(flags)
    if arch in _ARM and "asimddp" in flags:
        more = "".join(f"+{name}" for flag, name in _ARM_MORE if flag in flags)
        return (*native_off, f"-DGGML_CPU_ARM_ARCH=armv8.2-a{more}")
    return native_off


def _x86_args(flags: frozenset[str]) -> tuple[str, ...]:
    off = tuple(f"-DGGML_{name}=OFF" for flag, name in _X86_DEFAULTS if flag not in flags)
    if flags >= _AVX512_BASE:
        more = tuple(f"-DGGML_AVX512_{name}=ON" for flag, name in _AVX512_MORE if flag in flags)
        return (*off, "-DGGML_AVX512=ON", *more)
    return (*off, "-DGGML_AVX_VNNI=ON") if flags >= {"avx_vnni", "avx2"} else off


def cpu_summary(arch: str, cpuinfo: str) -> str:
    """The CPU arguments in a few words, for the person who waits for the build."""
    args = cpu_args(arch, cpuinfo)
    names = [arg[len("-DGGML_") : -len("=ON")].replace("_", "-") for arg in args if arg.endswith("=ON")]
    off = [arg[len("-DGGML_") : -len("=OFF")] for arg in args[1:] if arg.endswith("=OFF")]
    arm = [arg.split("=", 1)[1] for arg in args if "ARM_ARCH" in arg]
    words = ", ".join(names + arm) or "portable instructions"
    if off:
        words += f", without {', '.join(off)}"
    return words + (", AMX left out on purpose" if "amx_tile" in cpu_flags(cpuinfo) else "")


def plan(facts: Facts, user_cmake_args: str | None = None) -> BuildPlan:
    """The build for this machine. The user's own CMAKE_ARGS, unless empty or blank, are taken as they are."""
    if user_cmake_args and user_cmake_args.strip():
        return BuildPlan(user_cmake_args, "custom")
    build = gpu.gpu_build(facts)
    # edgespec reads text only: without llama.cpp's image input the build is a quarter shorter.
    args = (*cpu_args(facts.arch, facts.cpuinfo), *build.cmake_args, "-DLLAVA_BUILD=OFF")
    return BuildPlan(" ".join(args), build.target, build.prebuilt, build.warning)


def build_minutes(cmake_args: str, n_cores: int) -> int:
    """About how many minutes a build takes on so many cores; at least one."""
    minutes = _CPU_MINUTES + sum(_GPU_MINUTES[name] for name in _gpu_options(cmake_args))
    return max(1, round(minutes / max(1, n_cores)))


def n_jobs(cmake_args: str, n_cores: int, memory_bytes: int | None) -> int:
    """Compilers to run at once: as many as there are cores, fewer where memory would not hold them."""
    job_bytes = (3 if _gpu_options(cmake_args) else 1) << 30
    return n_cores if memory_bytes is None else max(1, min(n_cores, memory_bytes // job_bytes))


def _gpu_options(cmake_args: str) -> list[str]:
    on = re.compile(r"GGML_(\w+)=(?:ON|1|TRUE|YES)\b", re.IGNORECASE)
    return [name for name in on.findall(cmake_args) if name in _GPU_MINUTES]


def build_key(version: str, target: str, python_tag: str, parts: Sequence[str]) -> str:
    """A folder name for one build: readable, and different wherever any of `parts` differs."""
    digest = hashlib.sha256("\0".join((version, target, python_tag, *parts)).encode()).hexdigest()
    return f"{version}-{target}-{python_tag}-{digest[:12]}"


def unused_gpu_warning(supports_gpu_offload: bool) -> str | None:
    """One sentence with the command that mends it, where this machine has a GPU that the runtime cannot use.

    supports_gpu_offload  llama_supports_gpu_offload() of the loaded runtime
    Starts no program and never raises; None where there is nothing to say.
    """
    if supports_gpu_offload:
        return None
    return runtime_warning(gpu.probe(ask=False))


def runtime_warning(facts: Facts) -> str | None:
    """What to say at run time on a machine with these facts when the runtime uses no GPU."""
    if not facts.gpus:
        return None
    kind = facts.gpus[0]
    toolkit = {"nvidia": bool(facts.cuda_root), "amd": gpu.has_hip(facts), "intel": False, "metal": True}[kind]
    if toolkit or gpu.has_vulkan(facts):
        mend = "run `make setup`"
    elif kind == "nvidia":
        mend = "run `sudo apt install nvidia-cuda-toolkit` and then `make setup`"
    else:
        mend = f"{gpu.get_vulkan(facts)} and then run `make setup`"
    return f"{gpu.NAMES[kind]} is here but the runtime was built without it; for faster answers {mend}."

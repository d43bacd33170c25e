"""Which GPU this machine has, and what it takes to build llama.cpp for it.

Reading the machine (`probe`) is apart from judging what was read (`gpu_build`), so that every judgement is a
function of plain values. Standard library only: this runs before anything is installed.
Not covered: whether a GPU is worth using, how much memory it has (the runtime itself says that later).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

GpuKind = Literal["nvidia", "amd", "intel", "metal"]

# llama-cpp-python publishes a wheel index for each of these CUDA versions (its README, "Pre-built Wheel").
PREBUILT_CUDA = ((11, 8), (12, 1), (12, 2), (12, 3), (12, 4), (12, 5), (13, 0), (13, 2))
VULKAN_PACKAGES = "libvulkan-dev glslc spirv-headers"
NAMES: dict[GpuKind, str] = {
    "nvidia": "An NVIDIA GPU",
    "amd": "An AMD GPU",
    "intel": "An Intel GPU",
    "metal": "This Mac's GPU",
}
_PCI_VENDORS: dict[str, GpuKind] = {"0x10de": "nvidia", "0x1002": "amd", "0x8086": "intel"}
_VULKAN_ARGS = ("-DGGML_VULKAN=ON",)
_VULKAN_AT_LEAST = (1, 3, 272)  # vk::LayerSettingsCreateInfoEXT; tried: Debian 12's 1.3.239 does not compile
_HIP_AT_LEAST = (6, 1)  # ggml/src/ggml-hip/CMakeLists.txt refuses anything older


@dataclass(frozen=True)
class Facts:
    """What was read from this machine; "" or () where there is nothing or it was not asked.

    system, arch  platform.system() and platform.machine()
    cpuinfo       text of /proc/cpuinfo
    gpus          kinds present, the one to build for first
    cuda_root     folder with bin/nvcc whose toolkit has cuBLAS
    hip_root      folder with bin/hipcc
    hip_version   text like "6.2.0-66"
    vulkan        version of the Vulkan headers, like "1.3.275", if glslc and SPIR-V's headers are there too
    compute_caps  NVIDIA compute capabilities, like ("8.9",)
    cuda_driver   newest CUDA version the NVIDIA driver runs, like "12.4"
    nvcc_codes    output of `nvcc --list-gpu-code`
    """

    system: str
    arch: str
    cpuinfo: str = ""
    gpus: tuple[GpuKind, ...] = ()
    cuda_root: str = ""
    hip_root: str = ""
    hip_version: str = ""
    vulkan: str = ""
    compute_caps: tuple[str, ...] = ()
    cuda_driver: str = ""
    nvcc_codes: str = ""


@dataclass(frozen=True)
class GpuBuild:
    """How to build for the GPU.

    target      "cpu", "cuda", "hip", "vulkan" or "metal": what cmake_args build
    cmake_args  what to add to the CPU's arguments
    prebuilt    llama-cpp-python's wheel indexes worth trying before building, best first, like ("cu124",)
    warning     one sentence with the command that mends it, where a GPU would stay unused or used badly
    """

    target: str
    cmake_args: tuple[str, ...] = ()
    prebuilt: tuple[str, ...] = ()
    warning: str | None = None


def display_kinds(entries: Iterable[tuple[str, str]]) -> tuple[GpuKind, ...]:
    """GPU kinds among PCI entries (class, vendor) as sysfs writes them, in the order of preference.

    Display adapters of virtual machines and of server boards' management chips are no GPUs.
    """
    vendors = {vendor for pci_class, vendor in entries if pci_class.startswith("0x03")}
    return tuple(kind for vendor, kind in _PCI_VENDORS.items() if vendor in vendors)


def driver_cuda(nvidia_smi: str) -> str:
    """The CUDA version in nvidia-smi's header ("12.4"), or "" where there is none."""
    found = re.search(r"CUDA Version:\s*(\d+\.\d+)", nvidia_smi)
    return found.group(1) if found else ""


def compute_capabilities(query: str) -> tuple[str, ...]:
    """The distinct capabilities in the output of nvidia-smi --query-gpu=compute_cap, ascending."""
    found = {line.strip() for line in query.splitlines() if re.fullmatch(r"\s*\d+\.\d+\s*", line)}
    return tuple(sorted(found, key=_version))


def prebuilt_cuda(driver: str, compute_caps: tuple[str, ...]) -> tuple[str, ...]:
    """Name of the newest wheel index that this driver and these GPUs can run, as a tuple of one or none."""
    if not driver or not compute_caps:
        return ()
    oldest, newest = _version(compute_caps[0]), _version(compute_caps[-1])
    for version in reversed(PREBUILT_CUDA):
        low = (7, 5) if version >= (13, 0) else (6, 0)
        high = (8, 9) if version < (12, 0) else (99, 0)
        if version <= _version(driver) and low <= oldest and newest <= high:
            return (f"cu{version[0]}{version[1]}",)
    return ()


def gpu_build(facts: Facts) -> GpuBuild:
    """The build for the best GPU of `facts`; target "cpu" without a warning where there is none."""
    if not facts.gpus:
        return GpuBuild("cpu")
    kind = facts.gpus[0]
    if kind == "metal":
        return GpuBuild("metal")  # on in llama.cpp's own defaults
    if kind == "nvidia":
        return _nvidia(facts)
    if kind == "amd" and has_hip(facts):
        compiler = f"{facts.hip_root}/llvm/bin/clang++"
        return GpuBuild("hip", ("-DGGML_HIP=ON", f"-DCMAKE_HIP_COMPILER={compiler}"))
    return _vulkan(facts, kind)


def has_hip(facts: Facts) -> bool:
    """Whether a ROCm toolkit is there that llama.cpp can be built with."""
    return bool(facts.hip_root) and _version(facts.hip_version) >= _HIP_AT_LEAST


def has_cuda_12(facts: Facts) -> bool:
    """Whether nvcc is of CUDA 12 or newer: 11.8 fails on llama.cpp's code for Hopper and later cards."""
    return "sm_90a" in facts.nvcc_codes.split()


def has_vulkan(facts: Facts) -> bool:
    """Whether a Vulkan toolkit is there that llama.cpp can be built with."""
    return _version(facts.vulkan) >= _VULKAN_AT_LEAST


def get_vulkan(facts: Facts) -> str:
    """What to do to have one, as a clause."""
    if facts.vulkan:
        need = ".".join(map(str, _VULKAN_AT_LEAST))
        return f"install the Vulkan SDK (headers are {facts.vulkan}, {need} is needed), set VULKAN_SDK"
    return f"run `sudo apt install {VULKAN_PACKAGES}`"


def vulkan_version(vulkan_core_h: str) -> str:
    """The version that the text of vulkan_core.h defines, like "1.3.239"; "" if none."""
    patch = re.search(r"#define VK_HEADER_VERSION (\d+)", vulkan_core_h)
    complete = re.search(r"VK_HEADER_VERSION_COMPLETE \w+\(\d+, (\d+), (\d+), ", vulkan_core_h)
    return f"{complete.group(1)}.{complete.group(2)}.{patch.group(1)}" if patch and complete else ""


def _nvidia(facts: Facts) -> GpuBuild:
    if not facts.cuda_driver:
        warning = (
            "An NVIDIA GPU is here but its driver does not answer, so the runtime is built without it: "
            "run `sudo apt install nvidia-driver`, restart, and run `make setup`."
        )
        return GpuBuild("cpu", warning=warning)
    old = _version(facts.compute_caps[-1] if facts.compute_caps else "") > (8, 9) and not has_cuda_12(facts)
    if facts.cuda_root and not old:
        args = ["-DGGML_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={facts.cuda_root}/bin/nvcc"]
        codes = [cap.replace(".", "") for cap in facts.compute_caps]
        if codes and all(f"sm_{code}" in facts.nvcc_codes.split() for code in codes):
            args.append(f"-DCMAKE_CUDA_ARCHITECTURES={';'.join(codes)}")  # else llama.cpp's own list of many
        return GpuBuild("cuda", tuple(args))
    prebuilt = prebuilt_cuda(facts.cuda_driver, facts.compute_caps)
    if has_vulkan(facts):
        return GpuBuild("vulkan", _VULKAN_ARGS, prebuilt)
    mend = "install CUDA 12 or newer from NVIDIA" if old else "run `sudo apt install nvidia-cuda-toolkit`"
    warning = (
        "An NVIDIA GPU is here but no fitting CUDA toolkit (nvcc with cuBLAS), so the runtime is built "
        f"without it: {mend} and then run `make setup`."
    )
    return GpuBuild("cpu", (), prebuilt, warning)


def _vulkan(facts: Facts, kind: GpuKind) -> GpuBuild:
    if has_vulkan(facts):
        return GpuBuild("vulkan", _VULKAN_ARGS)
    warning = (
        f"{NAMES[kind]} is here but no toolkit to build for it, so the runtime is built without it: "
        f"{get_vulkan(facts)} and then run `make setup`."
    )
    return GpuBuild("cpu", (), ("vulkan",), warning)


def _version(text: str) -> tuple[int, ...]:
    """The numbers that a text like "6.2.0-66" begins with, here (6, 2, 0); () of anything else."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found.group().split("."))) if found else ()


def probe(ask: bool = True) -> Facts:
    """The facts of this machine. With ask=False no program is started (milliseconds) and what only a
    program tells stays empty; never raises."""
    gpus = _gpus()
    nvidia = "nvidia" in gpus and ask
    cuda_root = _cuda_root()
    hip_root = _first_root(("ROCM_PATH", "HIP_PATH"), ("/opt/rocm", "/usr"), "bin/hipcc")
    smi = shutil.which("nvidia-smi") or "/usr/lib/wsl/lib/nvidia-smi"
    return Facts(
        system=platform.system(),
        arch=platform.machine().lower(),
        cpuinfo=_read(Path("/proc/cpuinfo")),
        gpus=gpus,
        cuda_root=cuda_root,
        hip_root=hip_root,
        hip_version=_read(Path(hip_root, ".info/version")).strip() if hip_root else "",
        vulkan=_vulkan_headers(),
        compute_caps=compute_capabilities(
            _output(smi, "--query-gpu=compute_cap", "--format=csv,noheader") if nvidia else ""
        ),
        cuda_driver=driver_cuda(_output(smi) if nvidia else ""),
        nvcc_codes=_output(f"{cuda_root}/bin/nvcc", "--list-gpu-code") if nvidia and cuda_root else "",
    )


def _gpus() -> tuple[GpuKind, ...]:
    if platform.system() == "Darwin":
        return ("metal",) if platform.machine() == "arm64" else ()
    found = set(display_kinds(_pci_entries(Path("/sys/bus/pci/devices"))))
    if not any(Path("/dev/dri").glob("renderD*")):  # a container without the device cannot use it
        found -= {"amd", "intel"}
    if Path("/dev/kfd").exists():
        found.add("amd")
    wsl = Path("/dev/dxg").exists() and Path("/usr/lib/wsl/lib/nvidia-smi").exists()
    windows = platform.system() == "Windows" and shutil.which("nvidia-smi") is not None
    if Path("/dev/nvidia0").exists() or wsl or windows:
        found.add("nvidia")
    return tuple(kind for kind in _PCI_VENDORS.values() if kind in found)


def _pci_entries(folder: Path) -> list[tuple[str, str]]:
    try:
        devices = list(folder.iterdir())
    except OSError:
        return []
    return [(_read(device / "class").strip(), _read(device / "vendor").strip()) for device in devices]


def _cuda_root() -> str:
    nvcc = shutil.which("nvcc")
    roots = [os.environ[name] for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    if nvcc:
        roots += [str(Path(nvcc).resolve().parent.parent), str(Path(nvcc).parent.parent)]
    for root in (*roots, "/usr/local/cuda"):
        folders = [Path(root, "include"), *Path(root, "targets").glob("*/include")]
        if Path(root, "bin/nvcc").exists() and any((folder / "cublas_v2.h").exists() for folder in folders):
            return root
    return ""


def _first_root(variables: tuple[str, ...], places: tuple[str, ...], inside: str) -> str:
    roots = [os.environ[name] for name in variables if os.environ.get(name)] + list(places)
    return next((root for root in roots if Path(root, inside).exists()), "")


def _vulkan_headers() -> str:
    sdk = os.environ.get("VULKAN_SDK", "")
    includes = [Path(root, "include") for root in (sdk, "/usr/local", "/usr") if root]
    glslc = shutil.which("glslc") or (sdk and shutil.which("glslc", path=f"{sdk}/bin"))
    if not glslc or not any((folder / "spirv/unified1/spirv.hpp").exists() for folder in includes):
        return ""
    found = (vulkan_version(_read(folder / "vulkan/vulkan_core.h")) for folder in includes)
    return next(filter(None, found), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""

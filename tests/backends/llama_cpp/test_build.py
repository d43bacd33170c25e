"""What a build of the runtime may assume about a machine: exactly what the machine says of itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgespec.backends.llama_cpp import build, gpu
from edgespec.backends.llama_cpp.gpu import Facts

ROOT = Path(__file__).resolve().parents[3]
_SSE = "fpu vme de pse tsc msr sse sse2 ssse3 sse4_1 sse4_2 popcnt"
_AVX2 = f"{_SSE} avx avx2 fma f16c bmi1 bmi2"
XEON_AMX = (
    f"{_AVX2} avx512f avx512dq avx512cd avx512bw avx512vl avx_vnni avx512_bf16 avx512vbmi avx512_vbmi2 "
    "avx512_vnni avx512_bitalg avx512_fp16 amx_bf16 amx_tile amx_int8"
)


def cpuinfo(*flags: str) -> str:
    """A /proc/cpuinfo of x86 with one processor for each text of flags."""
    return "\n".join(
        f"processor\t: {n}\nmodel name\t: Some CPU\ncpu MHz\t\t: 2100.{n}\nflags\t\t: {text}\nbugs\t\t: mds\n"
        for n, text in enumerate(flags)
    )


ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd aes fphp asimdhp asimddp i8mm sve\n"


def x86(*flags: str) -> tuple[str, ...]:
    return build.cpu_args("x86_64", cpuinfo(*flags))


VULKAN = "1.3.275"


def nvidia(**facts: object) -> Facts:
    """A Linux machine with an RTX 4090 whose driver runs CUDA 12.4, changed by `facts`."""
    known = {"gpus": ("nvidia",), "compute_caps": ("8.9",), "cuda_driver": "12.4", "cpuinfo": cpuinfo(_AVX2)}
    return Facts("Linux", "x86_64", **{**known, **facts})  # type: ignore[arg-type]


# --- the CPU


def test_a_xeon_with_amx_gets_its_avx512_and_never_amx() -> None:
    """Native flags take in AMX, which GCC 12 miscompiles: the first decode dies."""
    assert x86(XEON_AMX, XEON_AMX) == (
        "-DGGML_NATIVE=OFF",
        "-DGGML_AVX512=ON",
        "-DGGML_AVX512_VBMI=ON",
        "-DGGML_AVX512_VNNI=ON",
        "-DGGML_AVX512_BF16=ON",
    )


def test_an_avx512_cpu_gets_only_the_extensions_it_lists() -> None:
    """A first-generation AVX-512 server dies by SIGILL on VBMI or BF16 instructions."""
    args = x86(f"{_AVX2} avx512f avx512dq avx512cd avx512bw avx512vl")
    assert args == ("-DGGML_NATIVE=OFF", "-DGGML_AVX512=ON")


def test_avx512f_without_its_companions_is_not_avx512() -> None:
    """GGML_AVX512 compiles with -mavx512cd/vl/dq/bw too, which Xeon Phi lacks."""
    assert x86(f"{_AVX2} avx512f avx512cd avx512vnni avx512_bf16") == ("-DGGML_NATIVE=OFF",)


def test_an_avx2_desktop_needs_nothing_said() -> None:
    """ggml's portable defaults are AVX2, FMA, F16C and BMI2."""
    assert x86(_AVX2) == ("-DGGML_NATIVE=OFF",)


def test_a_desktop_with_avx_vnni_gets_it() -> None:
    """Desktops since 2021 have no AVX-512, and 8-bit dot products only under this name."""
    assert x86(f"{_AVX2} avx_vnni") == ("-DGGML_NATIVE=OFF", "-DGGML_AVX_VNNI=ON")


def test_what_an_old_cpu_lacks_is_switched_off() -> None:
    """With GGML_NATIVE=OFF ggml switches these ON by default: an older CPU would die by SIGILL."""
    assert x86(f"{_SSE} avx") == (
        "-DGGML_NATIVE=OFF",
        "-DGGML_AVX2=OFF",
        "-DGGML_BMI2=OFF",
        "-DGGML_FMA=OFF",
        "-DGGML_F16C=OFF",
    )
    assert "-DGGML_SSE42=OFF" in x86("fpu sse sse2")
    assert "-DGGML_AVX=OFF" in x86("fpu sse sse2")


def test_a_flag_counts_only_if_every_processor_has_it() -> None:
    """Threads move between unlike cores."""
    assert x86(XEON_AMX, _AVX2) == ("-DGGML_NATIVE=OFF",)


def test_arm_gets_the_features_it_lists_and_no_sve() -> None:
    """ggml's baseline for ARM has no dot product, several times slower with quantized weights."""
    args = build.cpu_args("aarch64", ARM)
    assert args == ("-DGGML_NATIVE=OFF", "-DGGML_CPU_ARM_ARCH=armv8.2-a+fp16+dotprod+i8mm")


@pytest.mark.parametrize("arch", ["x86_64", "aarch64", "ppc64le", "s390x", "toaster"])
@pytest.mark.parametrize("text", ["", "no such thing", "flags", "\x00\xff"])
def test_an_unknown_machine_gets_plain_flags(arch: str, text: str) -> None:
    """/proc/cpuinfo may be unreadable, hidden, or of a kind nobody has seen."""
    assert build.cpu_args(arch, text) == ("-DGGML_NATIVE=OFF",)


def test_riscv_does_not_assume_vectors() -> None:
    """ggml switches RISC-V's vector extension on by default, and most boards have none."""
    assert "-DGGML_RVV=OFF" in build.cpu_args("riscv64", "")


def test_no_machine_is_ever_built_native_or_with_amx() -> None:
    """The one rule that a wrong build breaks by dying."""
    for arch in ("x86_64", "aarch64", "riscv64", ""):
        for flags in (XEON_AMX, _AVX2, _SSE, ""):
            args = build.plan(Facts("Linux", arch, cpuinfo(flags))).cmake_args
            assert args.startswith("-DGGML_NATIVE=OFF")
            assert "AMX" not in args


def test_the_summary_names_what_is_used_and_left_out() -> None:
    """The person who waits can see a wrong guess about the CPU."""
    assert build.cpu_summary("x86_64", cpuinfo(XEON_AMX)) == (
        "AVX512, AVX512-VBMI, AVX512-VNNI, AVX512-BF16, AMX left out on purpose"
    )
    assert build.cpu_summary("x86_64", cpuinfo(f"{_AVX2[:-5]}")) == "portable instructions, without BMI2"
    assert build.cpu_summary("x86_64", "") == "portable instructions"


# --- the user's own arguments


def test_the_users_cmake_args_win_word_for_word() -> None:
    """Somebody who sets CMAKE_ARGS knows something we do not."""
    own = "-DGGML_NATIVE=ON  -DGGML_BLAS=ON"
    assert build.plan(nvidia(cuda_root="/cuda"), own) == build.BuildPlan(own, "custom")


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_blank_cmake_args_are_none(blank: str | None) -> None:
    """An exported but empty variable is not a wish."""
    assert build.plan(Facts("Linux", "x86_64", cpuinfo(_AVX2)), blank).target == "cpu"


# --- the GPU


def test_without_a_gpu_nothing_is_said() -> None:
    """A warning about nothing teaches people to skip warnings."""
    plan = build.plan(Facts("Linux", "x86_64", cpuinfo(_AVX2), cuda_root="/cuda", vulkan=VULKAN))
    assert plan == build.BuildPlan("-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF", "cpu")


def test_nvidia_with_its_toolkit_is_built_for_exactly_that_card() -> None:
    """Left alone, llama.cpp compiles for every card there is, which takes hours."""
    plan = build.plan(nvidia(cuda_root="/cuda", nvcc_codes="sm_80\nsm_89\nsm_90\n"))
    assert plan.target == "cuda"
    assert "-DGGML_CUDA=ON -DCMAKE_CUDA_COMPILER=/cuda/bin/nvcc -DCMAKE_CUDA_ARCHITECTURES=89" in plan.cmake_args
    assert (plan.prebuilt, plan.warning) == ((), None)


def test_a_card_newer_than_the_toolkit_gets_llama_cpps_own_list() -> None:
    """nvcc refuses an architecture it does not know; the list holds code the driver can translate."""
    codes = "sm_80\nsm_89\nsm_90\nsm_90a\n"
    plan = build.plan(nvidia(cuda_root="/cuda", compute_caps=("12.0",), nvcc_codes=codes))
    assert "-DGGML_CUDA=ON" in plan.cmake_args
    assert "ARCHITECTURES" not in plan.cmake_args


def test_a_hopper_card_is_not_built_for_with_cuda_11() -> None:
    """Debian 12's toolkit is 11.8, which cannot compile llama.cpp's code for that card."""
    plan = build.plan(nvidia(cuda_root="/usr", compute_caps=("9.0",), nvcc_codes="sm_89\nsm_90\n"))
    assert (plan.target, plan.prebuilt) == ("cpu", ("cu124",))
    assert plan.warning is not None
    assert "install CUDA 12 or newer" in plan.warning
    ada = build.plan(nvidia(cuda_root="/usr", nvcc_codes="sm_89\nsm_90\n"))
    assert "-DCMAKE_CUDA_ARCHITECTURES=89" in ada.cmake_args


def test_nvidia_without_toolkit_tries_a_wheel_and_names_the_command() -> None:
    """The GPU may not stay unused in silence."""
    plan = build.plan(nvidia())
    assert (plan.target, plan.prebuilt) == ("cpu", ("cu124",))
    assert plan.warning is not None
    assert "sudo apt install nvidia-cuda-toolkit" in plan.warning


def test_nvidia_without_cuda_but_with_vulkan_is_built_for_vulkan() -> None:
    """Slower than CUDA, and far faster than leaving the card alone."""
    plan = build.plan(nvidia(vulkan=VULKAN))
    assert (plan.target, plan.prebuilt, plan.warning) == ("vulkan", ("cu124",), None)
    assert "-DGGML_VULKAN=ON" in plan.cmake_args


def test_nvidia_without_an_answering_driver_is_told_about_the_driver() -> None:
    """A toolkit is no help without a driver."""
    plan = build.plan(nvidia(cuda_driver="", compute_caps=(), cuda_root="/cuda"))
    assert plan.target == "cpu"
    assert plan.warning is not None
    assert "nvidia-driver" in plan.warning


@pytest.mark.parametrize(
    ("driver", "caps", "index"),
    [
        ("12.4", ("8.9",), ("cu124",)),
        ("12.9", ("12.0",), ("cu125",)),  # a minor version newer than any wheel
        ("13.1", ("9.0",), ("cu130",)),
        ("13.2", ("7.0",), ("cu125",)),  # CUDA 13 knows no Volta
        ("11.8", ("9.0",), ()),  # the 11.8 wheel ends with 8.9
        ("11.4", ("8.6",), ()),
        ("12.4", ("5.2",), ()),
        ("", ("8.9",), ()),
        ("12.4", (), ()),
    ],
)
def test_the_wheel_index_fits_driver_and_card(driver: str, caps: tuple[str, ...], index: tuple[str, ...]) -> None:
    """llama-cpp-python's README: which CUDA versions have wheels, and for which cards."""
    assert gpu.prebuilt_cuda(driver, caps) == index


def test_amd_with_rocm_is_built_for_hip() -> None:
    """With the clang of the same ROCm: cmake refuses hipcc as compiler of the HIP language."""
    facts = Facts("Linux", "x86_64", gpus=("amd",), hip_root="/opt/rocm", hip_version="6.2.0-66", vulkan=VULKAN)
    plan = build.plan(facts)
    assert plan.target == "hip"
    assert "-DGGML_HIP=ON -DCMAKE_HIP_COMPILER=/opt/rocm/llvm/bin/clang++" in plan.cmake_args


def test_a_rocm_too_old_is_passed_over_for_vulkan() -> None:
    """Debian 12's own is 5.2, and llama.cpp asks for 6.1."""
    facts = Facts("Linux", "x86_64", gpus=("amd",), hip_root="/usr", hip_version="5.2.3", vulkan=VULKAN)
    assert build.plan(facts).target == "vulkan"


@pytest.mark.parametrize("kind", ["amd", "intel"])
def test_amd_and_intel_without_toolkit_are_told_of_vulkan(kind: gpu.GpuKind) -> None:
    """Debian has everything Vulkan needs."""
    plan = build.plan(Facts("Linux", "x86_64", gpus=(kind,)))
    assert (plan.target, plan.prebuilt) == ("cpu", ("vulkan",))
    assert plan.warning is not None
    assert "sudo apt install libvulkan-dev glslc spirv-headers" in plan.warning


def test_vulkan_headers_too_old_are_not_built_with() -> None:
    """Debian 12's 1.3.239 lack what ggml-vulkan.cpp asks for: the build would fail after minutes."""
    header = (
        "#define VK_HEADER_VERSION 239\n"
        "#define VK_HEADER_VERSION_COMPLETE VK_MAKE_API_VERSION(0, 1, 3, VK_HEADER_VERSION)\n"
    )
    assert gpu.vulkan_version(header) == "1.3.239"
    assert gpu.vulkan_version("") == ""
    plan = build.plan(Facts("Linux", "x86_64", gpus=("intel",), vulkan="1.3.239"))
    assert (plan.target, plan.prebuilt) == ("cpu", ("vulkan",))
    assert plan.warning is not None
    assert "headers are 1.3.239, 1.3.272 is needed" in plan.warning


def test_a_mac_is_built_for_metal_by_default() -> None:
    """llama.cpp switches Metal on by itself; nothing may switch it off."""
    plan = build.plan(Facts("Darwin", "arm64", gpus=("metal",)))
    assert plan == build.BuildPlan("-DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF", "metal")


def test_only_real_gpus_count_among_display_adapters() -> None:
    """Virtual machines and server boards show adapters of Bochs, Cirrus and ASPEED."""
    entries = [("0x030000", "0x1234"), ("0x030000", "0x1a03"), ("0x020000", "0x8086"), ("0x030200", "0x10de")]
    assert gpu.display_kinds(entries) == ("nvidia",)
    assert gpu.display_kinds([("0x030000", "0x8086"), ("0x030000", "0x1002")]) == ("amd", "intel")


def test_nvidia_smi_is_read_for_driver_and_cards() -> None:
    """Both are texts for people, and either may be an error message."""
    header = "| NVIDIA-SMI 550.54.14    Driver Version: 550.54.14    CUDA Version: 12.4     |"
    assert gpu.driver_cuda(header) == "12.4"
    assert gpu.driver_cuda("NVIDIA-SMI has failed because it couldn't communicate") == ""
    assert gpu.compute_capabilities("12.0\n8.9\n8.9\n") == ("8.9", "12.0")
    assert gpu.compute_capabilities("Field is not a valid field to query.\n") == ()


def test_this_machine_can_be_probed() -> None:
    """Whatever the machine: no exception, and no program started when none may be."""
    facts = gpu.probe(ask=False)
    assert (facts.compute_caps, facts.cuda_driver, facts.nvcc_codes) == ((), "", "")
    assert facts.arch


# --- at run time


def test_a_gpu_in_use_is_no_reason_to_warn() -> None:
    """The common case says nothing."""
    assert build.unused_gpu_warning(supports_gpu_offload=True) is None


@pytest.mark.parametrize(
    ("facts", "command"),
    [
        (nvidia(cuda_root="/cuda"), "run `make setup`"),
        (nvidia(), "sudo apt install nvidia-cuda-toolkit` and then `make setup`"),
        (
            Facts("Linux", "x86_64", gpus=("amd",)),
            "sudo apt install libvulkan-dev glslc spirv-headers` and then run `make setup`",
        ),
        (Facts("Linux", "x86_64", gpus=("intel",), vulkan=VULKAN), "run `make setup`"),
        (Facts("Darwin", "arm64", gpus=("metal",)), "run `make setup`"),
    ],
)
def test_an_unused_gpu_is_named_with_the_command_that_mends_it(facts: Facts, command: str) -> None:
    """One sentence, one command."""
    warning = build.runtime_warning(facts)
    assert warning is not None
    assert command in warning
    assert "\n" not in warning


def test_a_machine_without_gpu_is_not_warned() -> None:
    """A toolkit alone is no GPU."""
    assert build.runtime_warning(Facts("Linux", "x86_64", cuda_root="/cuda", vulkan=VULKAN)) is None


# --- the build itself


def test_builds_with_different_arguments_never_share_a_key() -> None:
    """pip's own cache does, and hands out a wheel built for another CPU."""
    parts = [("a", "b"), ("ab", ""), ("a", "b", ""), ("a", "c")]
    keys = {build.build_key("0.3.36", "cpu", "cp311", part) for part in parts}
    keys |= {build.build_key("0.3.36", "cuda", "cp311", ("a", "b"))}
    keys |= {build.build_key("0.3.36", "cpu", "cp312", ("a", "b"))}
    assert len(keys) == 6
    assert all(key.startswith("0.3.36-") for key in keys)


def test_the_time_is_told_for_cores_and_gpu() -> None:
    """Measured: 4 minutes on 2 cores for the CPU."""
    cpu, cuda = "-DGGML_NATIVE=OFF -DGGML_CUDA=OFF", "-DGGML_NATIVE=OFF -DGGML_CUDA=ON"
    assert build.build_minutes(cpu, 2) == 4
    assert build.build_minutes(cpu, 64) == 1
    assert build.build_minutes(cuda, 2) > 30


def test_compilers_are_as_many_as_memory_holds() -> None:
    """A board with eight cores and 2 GB kills its compilers otherwise."""
    gib = 1 << 30
    assert build.n_jobs("", 8, 2 * gib) == 2
    assert build.n_jobs("", 8, 64 * gib) == 8
    assert build.n_jobs("-DGGML_CUDA=ON", 8, 6 * gib) == 2
    assert build.n_jobs("", 8, 1) == 1
    assert build.n_jobs("", 8, None) == 8


def test_the_modules_need_nothing_installed() -> None:
    """They run before .venv exists: -I -S leaves only the standard library and this checkout."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from edgespec.backends.llama_cpp import build"
    assert subprocess.run([sys.executable, "-I", "-S", "-c", code], check=False).returncode == 0

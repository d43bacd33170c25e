"""What `make llama-server` promises: the runtime's own build, whole or absent, and one sentence where it cannot be."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgespec.backends.llama_cpp import build
from edgespec.backends.llama_cpp.gpu import Facts
from tools import llama_server, runtime
from tools.environment import SetupError

ROOT = Path(__file__).resolve().parents[2]
PLAN = build.BuildPlan("-DGGML_NATIVE=OFF", "cpu")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may find, or touch, what this checkout has built; nor need a compiler."""
    monkeypatch.setattr(llama_server, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(runtime, "_compiler_version", lambda: "g++ 12.2.0")
    monkeypatch.delenv("CMAKE_ARGS", raising=False)


def compile_nothing(_cmake: str, _sources: Path, folder: Path, _args: str, _log: object) -> None:
    """A build in no time, with a library beside the program."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "libllama.so").write_text("library")
    (folder / "bin" / "llama-server").write_text("program")
    (folder / "bin" / "llama-server").chmod(0o755)


@pytest.fixture
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_server, "_cmake", lambda _log: "cmake")
    monkeypatch.setattr(llama_server, "_sources", lambda _version, place, _log: place)
    monkeypatch.setattr(llama_server, "_compile", compile_nothing)


def make(key: str) -> None:
    llama_server._build("0.3.36", PLAN, key, io.StringIO())


def test_the_server_is_compiled_with_the_runtimes_arguments() -> None:
    """Another instruction set, or a debug build, would be what is measured."""
    facts = Facts("Linux", "x86_64", "flags : avx avx2 fma f16c bmi2 sse4_2\n")
    args = llama_server.server_args(build.plan(facts).cmake_args).split()
    assert args[0] == "-DGGML_NATIVE=OFF"
    assert "-DCMAKE_BUILD_TYPE=Release" in args
    assert not any("LLAVA" in arg for arg in args)
    assert llama_server.server_args('-DX="a b" -DLLAVA_BUILD=OFF').startswith("'-DX=a b' -DCMAKE")


@pytest.mark.usefixtures("_no_work")
def test_a_finished_build_is_found_with_its_libraries(tmp_path: Path) -> None:
    """The program looks for its libraries beside itself, and find() for the key that a build now would have."""
    assert llama_server.find() is None
    key = llama_server._wanted()[2]
    make(key)
    assert llama_server.find() == tmp_path / "cache" / key / "bin" / "llama-server"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [key]
    assert (tmp_path / "cache" / key / "bin" / "libllama.so").exists()


@pytest.mark.usefixtures("_no_work")
def test_other_arguments_are_another_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server built before CMAKE_ARGS changed is not the runtime's any more."""
    make(llama_server._wanted()[2])
    assert llama_server.find() is not None
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_AVX512=OFF")
    assert llama_server.find() is None


@pytest.mark.usefixtures("_no_work")
def test_what_is_ready_is_printed_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Benchmarks ask each time."""
    make(llama_server._wanted()[2])
    capsys.readouterr()
    monkeypatch.setattr(llama_server, "_build", lambda *_: pytest.fail("built again"))
    monkeypatch.setattr(llama_server, "ensure_venv", lambda: pytest.fail("touched .venv"))
    assert llama_server.main([]) == 0
    assert capsys.readouterr() == (f"{llama_server.find()}\n", "")


@pytest.mark.usefixtures("_no_work")
def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a program would be started by the next benchmark."""

    def interrupted(*arguments: object) -> None:
        compile_nothing(*arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(llama_server, "_compile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make("key")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_build_killed_outright_leaves_nothing_that_looks_ready(tmp_path: Path) -> None:
    """No clean-up runs after SIGKILL or a power cut."""
    code = f"""
import io, os, pathlib, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from edgespec.backends.llama_cpp import build
from tools import llama_server
def killed(_cmake, _sources, folder, _args, _log):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "llama-server").touch(mode=0o755)
    os.kill(os.getpid(), signal.SIGKILL)
llama_server.CACHE = pathlib.Path({str(tmp_path)!r})
llama_server._cmake, llama_server._sources, llama_server._compile = str, lambda v, place, log: place, killed
llama_server._build("0.3.36", build.BuildPlan("", "cpu"), "key", io.StringIO())
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [path.name[:9] for path in tmp_path.iterdir()] == [".building"]
    assert list(tmp_path.glob("*/bin/llama-server")) == []


def test_without_compilers_one_sentence_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fresh machine has none; find() has no answer there, but no complaint either."""
    sentence = "There is no C and C++ compiler: run `sudo apt install gcc g++ make` and the same command again."

    def missing() -> str:
        raise SetupError(sentence)

    monkeypatch.setattr(runtime, "_compiler_version", missing)
    assert llama_server.find() is None
    assert llama_server.main([]) == 1
    assert capsys.readouterr() == ("", f"edgespec: {sentence}\n")


@pytest.mark.usefixtures("_no_work")
def test_a_full_disk_is_told_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five minutes later it would be told by the linker."""
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=10**9))
    monkeypatch.setattr(llama_server, "_sources", lambda *_: pytest.fail("fetched"))
    with pytest.raises(SetupError, match=r"needs 1 GB in .*/cache: free some"):
        make("key")


def test_a_machine_without_cmake_gets_pips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clean Debian has compilers and make at most."""
    asked: list[list[str]] = []
    monkeypatch.setattr("shutil.which", lambda _name: None)
    monkeypatch.setattr(llama_server, "venv_program", lambda name: tmp_path / name)
    monkeypatch.setattr(llama_server, "pip", lambda arguments, *_: asked.append(arguments) or True)
    assert llama_server._cmake(io.StringIO()) == str(tmp_path / "cmake")
    assert asked == [["install", "cmake", "ninja"]]

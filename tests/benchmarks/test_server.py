"""What benchmarks/server.py promises: numbers as llama-server gave them, and no process left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from server import Server, ServerError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FAKE = (sys.executable, str(Path(__file__).with_name("fake_llama_server.py")))
Make = Callable[..., Server]


@pytest.fixture
def fake(tmp_path: Path) -> Make:
    def make(behaviour: str = "", *args: str, ready_s: float = 30.0) -> Server:
        arguments = ("--fake", behaviour, *args)
        log, env = tmp_path / "log", {"FAKE_VARIABLE": "handed on"}
        return Server(FAKE, Path("m.gguf"), arguments, n_threads=2, n_ctx=512, log=log, env=env, ready_s=ready_s)

    return make


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_is_entered_once_the_model_is_loaded(fake: Make) -> None:
    """The port answers long before: the first reply would be an error, or loading would be measured."""
    with fake("slow") as server:
        assert server.complete([1], 3, 0.0, 1).predicted_n == 3


def test_the_program_is_told_model_size_threads_and_one_slot(fake: Make, tmp_path: Path) -> None:
    """Four slots and a copy of the last prompt's cache are its defaults; arguments of the caller come last and win."""
    with fake("", "-c", "64"):
        told = (tmp_path / "log").read_text().strip()
    assert told.startswith("-m m.gguf -c 512 -t 2 -tb 2 -np 1 --cache-ram 0 --host 127.0.0.1 --port ")
    assert told.endswith("--fake  -c 64 handed on")


def test_a_server_that_dies_while_loading_is_told_with_its_last_words(fake: Make) -> None:
    """Waiting for the deadline would tell nothing."""
    with (
        pytest.raises(ServerError, match=r"ended with status 1; its last words:\n  \| error: tensor blk.0"),
        fake("doomed"),
    ):
        pass


def test_a_server_that_is_never_ready_is_given_up_and_ended(fake: Make) -> None:
    """A benchmark left to run overnight must not hang on its first line."""
    server = fake("stuck", ready_s=0.3)
    with pytest.raises(ServerError, match=r"not ready after 0\.3 seconds"), server:
        pass
    assert not is_alive(server.pid)


def test_the_request_holds_ids_and_edgespecs_own_samplers(fake: Make) -> None:
    """Another chain samples from another distribution, and acceptance would not compare."""
    with fake() as server:
        path, asked = json.loads(server.complete([1, 300, 7], 3, 0.7, 42, cache_prompt=True).text)
    assert path == "/completion"
    assert asked == {
        "prompt": [1, 300, 7],
        "n_predict": 3,
        "temperature": 0.7,
        "seed": 42,
        "cache_prompt": True,
        "samplers": ["top_k", "top_p", "min_p", "temperature"],
        "top_k": 40,
        "top_p": 0.95,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "return_tokens": True,
        "stream": False,
    }


def test_a_reply_holds_what_the_server_counted(fake: Make) -> None:
    """Every field has a neighbour it could be taken for."""
    with fake() as server:
        reply = server.complete([1], 3, 0.0, 1)
    assert reply.tokens == (11, 12, 13)
    assert (reply.cache_n, reply.prompt_n, reply.prompt_ms) == (1, 2, 3.5)
    assert (reply.predicted_n, reply.predicted_ms) == (3, 4.5)
    assert (reply.draft_n, reply.draft_n_accepted, reply.stop_type) == (7, 5, "limit")
    assert reply.ttft_ms is None
    assert reply.wall_ms > 0


def test_a_streamed_reply_is_put_together_and_timed_here(fake: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first token's time, not the last's; drafts are counted only where there were any.

    By hand: the clock is read at the start, at the first token and at the end.
    """
    with fake() as server:
        monkeypatch.setattr("server.time", SimpleNamespace(perf_counter=iter([5.0, 5.25, 6.0]).__next__))
        reply = server.complete([1], 3, 0.0, 1, stream=True)
    assert (reply.tokens, reply.text, reply.predicted_n, reply.draft_n) == ((11, 13), "ab", 3, 0)
    assert (reply.ttft_ms, reply.wall_ms) == (250.0, 1000.0)


def test_a_server_answers_again_and_again(fake: Make) -> None:
    """A kept connection is dropped by the server when it likes, which failed about one request in 300."""
    with fake() as server:
        assert [server.complete([1], 3, 0.0, 1, stream=n % 2 > 0).stop_type for n in range(4)] == ["limit"] * 4


@pytest.mark.parametrize(
    ("behaviour", "stream", "sentence"),
    [
        ("refusing", False, r"refused the request: exceeds the available context size\.$"),
        ("refusing", True, r"refused the request: exceeds the available context size\.$"),
        ("broken", True, r"broke off: exceeds the available context size\.$"),
        ("fragile", False, r"did not answer .*its last words:(.|\n)*\| ggml: out of memory$"),
    ],
)
def test_a_completion_that_fails_is_a_sentence(fake: Make, behaviour: str, stream: bool, sentence: str) -> None:
    """A KeyError or half a reply would end in the results."""
    with fake(behaviour) as server, pytest.raises(ServerError, match=sentence):
        server.complete([1], 3, 0.0, 1, stream=stream)


@pytest.mark.parametrize("behaviour", ["", "deaf"])
def test_nothing_runs_after_the_block(fake: Make, behaviour: str) -> None:
    """A server left behind holds the model in memory and the next measurement is of something else."""

    def interrupted(server: Server) -> None:
        with server:
            if behaviour == "deaf":
                server.stop(patience_s=0.1)
            raise KeyboardInterrupt

    server = fake(behaviour)
    with pytest.raises(KeyboardInterrupt):
        interrupted(server)
    assert not is_alive(server.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_server_ends_even_when_this_process_is_killed_outright(tmp_path: Path) -> None:
    """No clean-up runs after SIGKILL."""
    os.mkfifo(tmp_path / "alive")
    reader = os.open(tmp_path / "alive", os.O_RDONLY | os.O_NONBLOCK)
    shell = ("sh", "-c", f'exec "$@" 3>"{tmp_path}/alive"', "sh", *FAKE)
    code = (
        f"import sys, os, signal, pathlib; sys.path.insert(0, {str(BENCHMARKS)!r}); import server",
        f"log = pathlib.Path({str(tmp_path / 'log')!r})",
        f"server.Server({shell!r}, log, n_threads=1, n_ctx=1, log=log).__enter__()",
        "os.kill(os.getpid(), signal.SIGKILL)",
    )
    done = subprocess.run([sys.executable, "-c", "; ".join(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    ended, _, _ = select.select([reader], [], [], 20)  # end of file: nobody holds the other end
    assert ended
    assert os.read(reader, 1) == b""
    os.close(reader)

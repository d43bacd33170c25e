"""A llama-server to measure against: its process, and completions over HTTP.

Token ids go in and come out, so that both sides tokenize nothing and can be compared token by token. Samplers are
edgespec's own chain and no others. Standard library only.
Not covered: several requests at a time, chat, where the program comes from (tools/llama_server.py).
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SAMPLERS = ("top_k", "top_p", "min_p", "temperature")
_PR_SET_PDEATHSIG = 1


class ServerError(Exception):
    """One sentence, and the server's last words where it had any."""


@dataclass(frozen=True)
class Reply:
    """One completion. Times are milliseconds; those without "client" in their line are the server's own.

    tokens            ids, the end-of-turn id included; of a streamed reply see Server.complete
    prompt_n          prompt tokens evaluated, prompt_ms until the first token is sampled (a draft model's prompt too)
    cache_n           prompt tokens taken from an earlier request, not in prompt_n
    predicted_n       tokens sampled, predicted_ms from the first one sampled to the last: predicted_n - 1 of them
    draft_n           tokens drafted, draft_n_accepted of them accepted; 0 where none was drafted
    ttft_ms           client: until the first streamed token is here; None where it was not streamed
    wall_ms           client: until the whole reply is here
    stop_type         "eos", "limit" or "word"
    """

    tokens: tuple[int, ...]
    text: str
    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    draft_n: int
    draft_n_accepted: int
    cache_n: int
    ttft_ms: float | None
    wall_ms: float
    stop_type: str


class Server:
    """A llama-server of one slot, running between `with` and the end of its block.

    command    the program, a Path, or several words where it is started by another one
    args       more of its arguments, which win over these: "--spec-type", "draft-simple", ...
    log        file for its output, written anew
    env        variables set beside this process's own
    ready_s    seconds that loading may take
    Entering raises ServerError where it dies or is not ready in time. It ends with this process, however that ends
    (on Linux: with the thread that entered).
    """

    def __init__(
        self,
        command: Path | Sequence[str],
        model: Path,
        args: Sequence[str] = (),
        *,
        n_threads: int,
        n_ctx: int,
        log: Path,
        env: Mapping[str, str] | None = None,
        ready_s: float = 120.0,
    ) -> None:
        self._port = _free_port()
        words = [str(command)] if isinstance(command, Path) else list(command)
        words += ["-m", str(model), "-c", str(n_ctx), "-t", str(n_threads), "-tb", str(n_threads)]
        # Four slots are the default, and a copy of the last prompt's cache is kept: neither serves one client.
        words += ["-np", "1", "--cache-ram", "0", "--host", "127.0.0.1", "--port", str(self._port)]
        self._words = [*words, *args]
        self._env = {**os.environ, **(env or {})}
        self._log = log
        self._ready_s = ready_s
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process id, to ask the system about its memory; raises ServerError where it was never started."""
        if self._process is None:
            raise ServerError("llama-server was not started: use it in a `with` block.")
        return self._process.pid

    def __enter__(self) -> Server:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                start_new_session=True,  # Ctrl-C is ours; it is ended in order
                preexec_fn=_dying_with_us() if sys.platform == "linux" else None,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def stop(self, patience_s: float = 10.0) -> None:
        """End the process, by force once patience is over; nothing is done where none runs."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def complete(
        self,
        prompt_ids: Sequence[int],
        n_predict: int,
        temperature: float,
        seed: int,
        cache_prompt: bool = False,
        stream: bool = False,
    ) -> Reply:
        """The completion of a prompt of token ids; raises ServerError.

        Only a streamed one has ttft_ms. Its tokens lack those whose text ends inside a character, as the server
        does not send them, and it costs the server a message a token: compare tokens and speed unstreamed.
        """
        body = {
            "prompt": list(prompt_ids),
            "n_predict": n_predict,
            "temperature": temperature,
            "seed": seed,
            "cache_prompt": cache_prompt,
            "samplers": SAMPLERS,
            "top_k": 40,
            "top_p": 0.95,
            "min_p": 0.05,
            "repeat_penalty": 1.0,
            "return_tokens": True,
            "stream": stream,
        }
        tokens: list[int] = []
        text, ttft_ms, last = "", None, {}
        with closing(http.client.HTTPConnection("127.0.0.1", self._port)) as connection:
            try:
                connection.connect()  # one a request: the server drops kept ones when it likes. TCP_NODELAY is set
                start = time.perf_counter()
                for last in _answers(connection, json.dumps(body).encode(), stream):
                    tokens += last["tokens"]
                    text += last["content"]
                    if stream and ttft_ms is None and tokens:
                        ttft_ms = (time.perf_counter() - start) * 1e3
                wall_ms = (time.perf_counter() - start) * 1e3
            except (OSError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
                raise ServerError(f"llama-server did not answer ({reason}){self._last_words()}") from error
        return _reply(tuple(tokens), text, last, ttft_ms, wall_ms)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._ready_s
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise ServerError(f"llama-server ended with status {process.returncode}{self._last_words()}")
            if self._is_healthy():
                return
            time.sleep(0.02)
        raise ServerError(f"llama-server was not ready after {self._ready_s:g} seconds{self._last_words()}")

    def _is_healthy(self) -> bool:
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)) as probe:
            try:
                probe.request("GET", "/health")
                return probe.getresponse().status == 200  # 503 while it loads
            except (OSError, http.client.HTTPException):
                return False

    def _last_words(self) -> str:
        with suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()[-8:]
            return "; its last words:" + "".join(f"\n  | {line}" for line in lines)
        return "."


def _answers(connection: http.client.HTTPConnection, body: bytes, stream: bool) -> Iterator[dict[str, Any]]:
    """The objects of one reply: one, or as many as are streamed; raises ServerError where it is refused."""
    connection.request("POST", "/completion", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise ServerError(f"llama-server refused the request: {_message(response.read())}.")
    if not stream:
        yield json.loads(response.read())
        return
    while line := response.readline():
        if not line.startswith(b"data: {"):
            continue
        event = line.removeprefix(b"data: ")
        answer = json.loads(event)
        if "error" in answer:
            raise ServerError(f"llama-server broke off: {_message(event)}.")
        yield answer


def _reply(tokens: tuple[int, ...], text: str, last: dict[str, Any], ttft_ms: float | None, wall_ms: float) -> Reply:
    if "timings" not in last or "stop_type" not in last:
        raise ServerError("llama-server broke off in the middle of its reply.")
    timings = last["timings"]
    return Reply(
        tokens=tokens,
        text=text,
        prompt_n=timings["prompt_n"],
        prompt_ms=timings["prompt_ms"],
        predicted_n=timings["predicted_n"],
        predicted_ms=timings["predicted_ms"],
        draft_n=timings.get("draft_n", 0),
        draft_n_accepted=timings.get("draft_n_accepted", 0),
        cache_n=timings["cache_n"],
        ttft_ms=ttft_ms,
        wall_ms=wall_ms,
        stop_type=last["stop_type"],
    )


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"]["message"]).rstrip(".")
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace").strip() or "without a word"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _dying_with_us() -> Callable[[], None]:
    """What the child runs before the program: the kernel then kills it when this process dies, SIGKILL included."""
    prctl, parent = ctypes.CDLL(None, use_errno=True).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return ask

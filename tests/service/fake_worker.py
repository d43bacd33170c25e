"""A worker without a model that follows a script: `fake_worker.py [STAGE ENDING]`.

STAGE   start, load, ask (before it says anything), answer (behind its first piece) or end (of an answer, all but Done):
        where it ends; none: nowhere.
        STAGE:N only the first N processes do, which its rung tells. The model "gone" is refused.
ENDING  a signal's number, or one of: exit, half (in the middle of a frame), assert (as ggml does), mute (closes its
        pipe and lives on), hang
An answer obeys the last message, and goes on behind what was said:
count     says one, two, three                 wait      says one, and the rest after its cancel
silent    says nothing, and ends when told to  overflow  fails
deaf      says one and hears nothing any more  stubborn  says one, then no to its cancel, and is deaf
child     starts a process and says its id     escape    says what would clear a screen
note      notes that a turn is left out, and says one
begin     begins with message 2, says one, and when it goes on where
burst     says one, and fails
Anything else is repeated, with the number of messages.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from typing import BinaryIO

from edgespec.errors import ContextOverflow, DoesNotFit
from edgespec.service.messages import Began, Cancel, Done, Failed, Generate, Load, Loaded, Noted, Pipe, Progress, Said
from edgespec.service.worker import _own_stdout
from edgespec.types import Answer, Notice, Piece, PlanLine

PLAN = (PlanLine("drafter", "fake-draft", "asked for"), PlanLine("rows", "8 (tree)", "a default"))
PLACE, ENDING = [*sys.argv[1:], "", ""][:2]
STAGE, _, N_DEATHS = PLACE.partition(":")
N_RUNGS = 9


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = _own_stdout()
    pipe = Pipe(sys.stdin.buffer, out)
    rung = 0
    end_at("start", rung, out)
    while (order := pipe.receive()) is not None:
        print("a stray print")
        os.write(1, b"and one of a library in C\n")
        if isinstance(order, Load):
            if order.settings.model == "gone":
                pipe.send(Failed(order.request, ContextOverflow(200, 128)))
                continue
            rung = order.rung
            pipe.send(Progress(order.request, "loading fake", 0.5))
            end_at("load", rung, out)
            plan = (*PLAN, PlanLine("rung", str(rung), "restarts"))
            pipe.send(Loaded(order.request, "fake", "a note", 128, "model", plan, ("a warning",), N_RUNGS))
        elif isinstance(order, Generate):
            obey(order, rung, pipe, out)


def obey(order: Generate, rung: int, pipe: Pipe, out: BinaryIO) -> None:
    def say(text: str) -> None:
        said.append(text)
        if len(said) > len(order.said):
            pipe.send(Said(order.request, Piece(text, (len(text),))))

    said: list[str] = []
    command = order.messages[-1].content
    end_at("ask", rung, out)
    if command == "overflow":
        pipe.send(Failed(order.request, ContextOverflow(200, 128)))
        return
    if command == "child":
        child = subprocess.Popen([sys.executable, "-c", "import signal; signal.alarm(60); signal.pause()"])
        say(str(child.pid))
    elif command == "escape":
        say("a\x1b[2Jb")
    elif command == "note":
        pipe.send(Noted(order.request, Notice("turns", "the oldest turn was left out")))
        say("one ")
    elif command == "begin":
        pipe.send(Began(order.request, order.start if order.said else 2))
        say("one ")
    elif command in ("count", "wait", "deaf", "stubborn", "burst"):
        say("one ")
    elif command == "silent":
        pipe.send(Progress(order.request, "reading the prompt", 0.25))
    else:
        say(f"{len(order.messages)} heard: {command!r}")
    end_at("answer", rung, out)
    if command == "burst":
        pipe.send(Failed(order.request, DoesNotFit("7 MiB are wanted and 5 are free; close other programs")))
        return
    if command == "begin" and order.said:
        say(f"from {order.start}")
    if command == "deaf":
        threading.Event().wait()
    waits = command in ("wait", "child", "silent", "stubborn")
    while waits and pipe.receive() != Cancel(order.request):
        pass
    if command == "stubborn":
        say("no ")
        threading.Event().wait()
    if command in ("count", "wait"):
        say("two ")
        say("three")
    end_at("end", rung, out)
    answer = Answer(
        text="".join(said),
        tokens=tuple(len(text) for text in said),
        finish="cancelled" if waits else "stop",
        method="model",
        prompt_n=7,
        cache_n=2,
        prompt_ms=1.0,
        predicted_ms=500.0,
        draft_n=9,
        draft_n_accepted=1,
        n_rounds=2,
        target_ms=300.0,
        draft_ms=100.0,
        overhead_ms=100.0,
        n_said=len(order.said),
    )
    pipe.send(Done(order.request, answer, rss_bytes=1))


def end_at(stage: str, rung: int, out: BinaryIO) -> None:
    if stage != STAGE or (N_DEATHS and rung >= int(N_DEATHS)):
        return
    if ENDING == "exit":
        sys.exit(3)
    if ENDING == "half":
        os.write(out.fileno(), b"\xff\x00\x00\x00half")
        os._exit(0)
    if ENDING == "assert":
        sys.stderr.write("/home/builder/llama.cpp/src/llama-kv.cpp:77: GGML_ASSERT(n > 0) failed\nframe 1\nframe 2\n")
        sys.stderr.flush()
        os.abort()
    if ENDING == "mute":
        os.close(out.fileno())
    elif ENDING != "hang":
        os.kill(os.getpid(), int(ENDING))
    threading.Event().wait()


main()

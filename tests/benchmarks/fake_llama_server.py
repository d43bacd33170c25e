"""Stands in for llama-server: the arguments that benchmarks/server.py gives, canned replies, and `--fake BEHAVIOUR`.

slow       says that it is loading twice before it is healthy       stuck   is never healthy
doomed     dies while it loads, with last words                     fragile dies of a completion
refusing   answers completions with an error                        deaf    does not end when told to
broken     breaks off in the middle of a stream
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

TIMINGS = {"cache_n": 1, "prompt_n": 2, "prompt_ms": 3.5, "predicted_n": 3, "predicted_ms": 4.5}
DRAFTED = {"draft_n": 7, "draft_n_accepted": 5}
REFUSAL = {"error": {"code": 400, "message": "exceeds the available context size.", "type": "x"}}


class Handler(BaseHTTPRequestHandler):
    behaviour = ""
    n_loading = 0

    def log_message(self, *_arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.behaviour == "stuck" or Handler.n_loading > 0:
            Handler.n_loading -= 1
            self.reply(503, {"error": {"code": 503, "message": "Loading model"}})
        else:
            self.reply(200, {"status": "ok"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.behaviour == "fragile":
            print("ggml: out of memory", flush=True)
            os._exit(3)
        if self.behaviour == "refusing":
            self.reply(400, REFUSAL)
        elif asked["stream"]:
            self.stream()
        else:
            self.reply(200, {"tokens": [11, 12, 13], "content": json.dumps([self.path, asked]), **ended(DRAFTED)})

    def stream(self) -> None:
        # The second token ends inside a character and is not sent, as with the real one.
        events = [{"tokens": [11], "content": "a"}, {"tokens": [13], "content": "b"}]
        events.append(REFUSAL if self.behaviour == "broken" else {"tokens": [], "content": "", **ended({})})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + ": a comment\n\n"
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(body.encode())

    def reply(self, status: int, answer: dict[str, object]) -> None:
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def ended(drafted: dict[str, int]) -> dict[str, object]:
    return {"stop": True, "stop_type": "limit", "timings": {**TIMINGS, **drafted}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int)
    parser.add_argument("--fake", default="")
    known, _ = parser.parse_known_args()
    Handler.behaviour = known.fake
    Handler.n_loading = 2 if known.fake == "slow" else 0
    if known.fake == "doomed":
        sys.exit("error: tensor blk.0 has wrong shape")
    if known.fake == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(*sys.argv[1:], os.environ.get("FAKE_VARIABLE", ""), flush=True)
    HTTPServer(("127.0.0.1", known.port), Handler).serve_forever()


if __name__ == "__main__":
    main()

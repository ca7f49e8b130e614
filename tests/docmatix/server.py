"""A real server on this machine that speaks the part of the OpenAI chat API that the builder uses."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does, and what it saw."""

    key: str = ""
    models: tuple[str, ...] = ("tiny",)
    failures: list[int] = field(default_factory=list)
    """Status codes of the first answers to chat requests."""
    dies_after: int | None = None
    """Chat requests after which every further one is answered 500."""
    delay: float = 0.0
    refuse: str = ""
    """A prompt that holds this is refused with 400."""
    requests: list[dict] = field(default_factory=list)
    busiest: int = 0
    _busy: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def answer(prompt: str) -> str:
    """Three pairs: one verbatim, one invented, one refusal."""
    text = prompt.split("The text of the PDF:\n", 1)[1].split("\n\nWrite the pairs", 1)[0]
    first = next((line for line in text.splitlines() if line.strip() and line != "NEW PAGE"), "nothing")
    return (
        f"Here are the pairs.\nQ1: What stands first on these pages?\nA1: {first}\n"
        "Q2: What do purple elephants eat for breakfast there?\nA2: Purple elephants eat marmalade sandwiches.\n"
        "Q3: Who wrote this?\nA3: unanswerable\n"
    )


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """The server's address, e.g. http://127.0.0.1:40000/v1, while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self._refused():
                return
            if self.path != "/v1/models" or not behaviour.models:
                return self._send(404, {"error": "no such page"})
            self._send(200, {"object": "list", "data": [{"id": m, "object": "model"} for m in behaviour.models]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self._refused():
                return
            with behaviour.lock:
                behaviour.requests.append(body)
                behaviour._busy += 1
                behaviour.busiest = max(behaviour.busiest, behaviour._busy)
                count = len(behaviour.requests)
                status = behaviour.failures.pop(0) if behaviour.failures else 200
            time.sleep(behaviour.delay)
            with behaviour.lock:
                behaviour._busy -= 1
            prompt = body["messages"][-1]["content"]
            if behaviour.dies_after is not None and count > behaviour.dies_after:
                status = 500
            if behaviour.refuse and re.search(behaviour.refuse, prompt):
                status = 400
            if status != 200:
                return self._send(status, {"error": {"message": f"made to fail with {status}"}})
            text = answer(prompt) if "The text of the PDF" in prompt else "yes"
            self._send(200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})

        def _refused(self) -> bool:
            if behaviour.key and self.headers.get("Authorization") != f"Bearer {behaviour.key}":
                self._send(401, {"error": "wrong key"})
                return True
            return False

        def _send(self, status: int, body: dict) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()

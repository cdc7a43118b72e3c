"""A small OpenAI-compatible endpoint on 127.0.0.1 that can misbehave in every way a real one does."""

from __future__ import annotations

import json
import random
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

YES, NO = '{"verdict": "YES"}', '{"verdict": "NO"}'
BROKEN_CONTENT: dict[str, object] = {
    "null content": None,
    "wrong schema": '{"result": true}',
    "verdict in prose": "YES, both name the same man.",
    "content is a number": 7,
}
MISBEHAVIOURS = (
    "hang", "slow drip", "429", "429 with retry-after", "500", "reset", "html", "cut json", "no choices", *BROKEN_CONTENT,
)  # fmt: skip
"""Modes in which no request gets a verdict."""


class JudgeServer(ThreadingHTTPServer):
    """`mode` decides what the next request gets; `requests` holds the bodies that came in."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, mode: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = mode
        self.content: str | None = YES
        self.decide: Callable[[str], bool] | None = None
        """The verdict on a prompt; None: `content` whatever is asked."""
        self.failures_first = 0
        self.failure_frac = 0.0
        """Share of requests that get a 500 at random."""
        self.delay_s = 0.0
        self.retry_after = "1"
        self.requests: list[dict] = []
        self.keys: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()
        self.released = threading.Event()
        self._rng = random.Random(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def prompts(self) -> list[str]:
        return [request["messages"][0]["content"] for request in self.requests]

    def mode_of_next(self) -> str:
        if self.failures_first:
            self.failures_first -= 1
            return "500"
        return "500" if self._rng.random() < self.failure_frac else self.mode

    def handle_error(self, request, client_address) -> None:
        """A client that hung up is what several tests want."""


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.requests.append(body)
            server.keys.append(self.headers.get("authorization", ""))
            server.in_flight += 1
            server.most_in_flight = max(server.most_in_flight, server.in_flight)
            mode = server.mode_of_next()
        try:
            self._answer(mode, body)
        finally:
            with server.lock:
                server.in_flight -= 1

    def _answer(self, mode: str, body: dict) -> None:
        time.sleep(self.server.delay_s)
        match mode:
            case "hang":
                self.server.released.wait(60)
                self.close_connection = True
            case "slow drip":
                self._drip()
            case "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            case "no structured output" if "response_format" in body:
                self._send(400, "application/json", '{"error": {"message": "response_format is not supported"}}')
            case "500" | "429" | "401":
                self._send(int(mode), "application/json", '{"error": {"message": "as asked"}}')
            case "429 with retry-after":
                error = '{"error": {"message": "slower"}}'
                self._send(429, "application/json", error, {"retry-after": self.server.retry_after})
            case "html":
                self._send(200, "text/html", "<html><body>502 YES [[YES]]</body></html>")
            case "cut json":
                self._send(200, "application/json", '{"choices": [{"mess')
            case "no choices":
                self._send(200, "application/json", '{"id": "x", "choices": []}')
            case "choices that are no list":
                self._send(200, "application/json", '{"id": "x", "choices": {"a": 1}}')
            case "nested":
                self._send(200, "application/json", "[" * 100_000)
            case _:
                self._reply(BROKEN_CONTENT[mode] if mode in BROKEN_CONTENT else self._content(body))

    def _content(self, body: dict) -> str | None:
        if self.server.decide is None:
            return self.server.content
        return YES if self.server.decide(body["messages"][0]["content"]) else NO

    def _reply(self, content: object) -> None:
        message = {"role": "assistant", "content": content}
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge"}
        self._send(200, "application/json", json.dumps({**reply, "choices": [{"index": 0, "message": message}]}))

    def _send(self, status: int, content_type: str, text: str, headers: dict[str, str] | None = None) -> None:
        payload = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(payload)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(payload)

    def _drip(self) -> None:
        """A byte now and then, often enough that no read ever times out."""
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", "100000")
        self.end_headers()
        while not self.server.released.wait(0.05):
            self.wfile.write(b" ")
            self.wfile.flush()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def compared(prompt: str) -> tuple[str, str]:
    """The reference and the candidate that a prompt shows."""
    reference, candidate = re.findall(r"^(?:Reference|Candidate): <\w+>(.*)</\w+>$", prompt, re.MULTILINE)
    return reference, candidate


def strict(prompt: str) -> bool:
    """A verdict: the same only if they are equal to the letter."""
    reference, candidate = compared(prompt)
    return candidate in reference.split(" | ")


@contextmanager
def judge_server(mode: str = "ok", content: str | None = YES) -> Iterator[JudgeServer]:
    """A running server, stopped on exit."""
    server = JudgeServer(mode)
    server.content = content
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()

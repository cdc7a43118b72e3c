"""A small OpenAI-compatible endpoint on 127.0.0.1 that can misbehave in every way a real one does."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class JudgeServer(ThreadingHTTPServer):
    """`mode` decides what the next request gets; `requests` holds the bodies that came in."""

    daemon_threads = True

    def __init__(self, mode: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mode = mode
        self.content: str | None = '{"verdict": "YES"}'
        self.failures_first = 0
        self.requests: list[dict] = []
        self.keys: list[str] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.lock = threading.Lock()
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

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
            mode = server.mode if server.failures_first == 0 else "500"
            server.failures_first = max(0, server.failures_first - 1)
        self._answer(mode, body)

    def _answer(self, mode: str, body: dict) -> None:
        if mode == "hang":
            self.server.released.wait(20)
        if mode == "slow":
            time.sleep(0.03)
        if mode == "no structured output" and "response_format" in body:
            self._send(400, "application/json", '{"error": {"message": "response_format is not supported"}}')
        elif mode in ("500", "429", "401"):
            self._send(int(mode), "application/json", '{"error": {"message": "as asked"}}')
        elif mode == "html":
            self._send(200, "text/html", "<html><body>502 YES [[YES]]</body></html>")
        elif mode == "cut json":
            self._send(200, "application/json", '{"choices": [{"mess')
        elif mode == "no choices":
            self._send(200, "application/json", '{"id": "x", "choices": []}')
        else:
            message = {"role": "assistant", "content": self.server.content}
            reply = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge"}
            self._send(200, "application/json", json.dumps({**reply, "choices": [{"index": 0, "message": message}]}))

    def _send(self, status: int, content_type: str, text: str) -> None:
        with self.server.lock:
            self.server.in_flight -= 1
        payload = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def judge_server(mode: str = "ok", content: str | None = '{"verdict": "YES"}') -> Iterator[JudgeServer]:
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

"""A server on loopback that answers what wandb asks of one, and keeps the history that it is sent.

History is a file of lines: what is sent says the line at which it begins, and replaces what stood there.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HISTORY = "wandb-history.jsonl"
API_KEY = "0" * 40


@dataclass
class WandbServer:
    """What one server knows."""

    url: str = ""
    history: dict[str, list[str]] = field(default_factory=dict)
    """Lines by run id."""
    groups: dict[str, str] = field(default_factory=dict)
    views: list[dict[str, Any]] = field(default_factory=list)
    """Workspaces as they were saved."""

    def rows(self, run_id: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.history.get(run_id, [])]

    def stream(self, run_id: str, files: dict[str, Any]) -> None:
        chunk = files.get(HISTORY)
        if chunk:
            lines = self.history.setdefault(run_id, [])
            assert chunk["offset"] <= len(lines), f"a gap in the history: {chunk['offset']} after {len(lines)} lines"
            lines[chunk["offset"] : chunk["offset"] + len(chunk["content"])] = chunk["content"]

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "team"}}
        match operation:
            case "Viewer":
                return {"viewer": {"id": "v", "entity": "team", "username": "u", "teams": {"edges": []}, "flags": "{}"}}
            case "ServerFeaturesQuery":
                return {"serverInfo": {"features": []}}
            case "RunResumeStatus":
                lines = self.history.get(variables["name"])
                known = lines is not None and {
                    "id": "b",
                    "name": variables["name"],
                    "displayName": "run",
                    "summaryMetrics": lines[-1] if lines else "{}",
                    "historyLineCount": len(lines),
                    "logLineCount": 0,
                    "eventsLineCount": 0,
                    "historyTail": json.dumps(lines[-1:]),
                    "eventsTail": "[]",
                    "config": "{}",
                    "tags": [],
                    "notes": None,
                    "wandbConfig": json.dumps({"t": 1}),
                }
                return {"model": project | {"bucket": known or None}}
            case "UpsertBucket":
                name = variables["name"]
                inserted = name not in self.history
                self.history.setdefault(name, [])
                if variables.get("groupName"):
                    self.groups[name] = variables["groupName"]
                bucket = {
                    "id": "b", "name": name, "displayName": "run", "description": None, "config": "{}", "sweepName": None,
                    "project": project, "historyLineCount": len(self.history[name]),
                }  # fmt: skip
                return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}
            case "CreateRunFiles":
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}}
            case "UpsertView2":
                self.views.append(variables)
                return {"upsertView": {"view": {"id": "w", "name": variables["name"]}, "inserted": True}}
        return {}


@contextmanager
def wandb_server(*, refuses: bool = False) -> Iterator[WandbServer]:
    """One that runs meanwhile; it may refuse everything."""
    state = WandbServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            answer: dict[str, Any] = {}
            if self.path == "/graphql":
                asked = json.loads(body)
                operation = re.search(r"(?:query|mutation) (\w+)", asked["query"])
                assert operation
                answer = {"data": state.answer(operation[1], asked.get("variables") or {})}
            elif found := re.fullmatch(r"/files/.*/([^/]+)/file_stream", self.path):
                state.stream(found[1], json.loads(body).get("files") or {})
            content = json.dumps(answer).encode()
            self.send_response(403 if refuses else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_PUT = do_POST

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A Hub of the test's own: it takes uploads as huggingface.co does, over HTTP, and keeps them."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD_TOKEN = "hf_" + "GoodTokenOfTheTest0123456789abcdef"
READ_TOKEN = "hf_" + "ReadTokenOfTheTest0123456789abcdef"
COMMIT = "c" * 40


@dataclass
class Repo:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Hub:
    """What the server was sent: repositories by id, large files by their SHA-256, and who asked."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, token


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = self.path.split("?")[0]
        self.hub.asked.append((self.command, path, token))
        status, answer = self._answer(path, body, token)
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self, path: str, body: bytes, token: str | None) -> tuple[int, Any]:
        if path.startswith("/stored/"):  # as on a storage of its own: nobody's token goes there
            self.hub.large[path.removeprefix("/stored/")] = body
            return 200, {}
        if token not in (GOOD_TOKEN, READ_TOKEN):
            return 401, {"error": "Invalid username or password."}
        return self._answer_user(path, body, token)

    def _answer_user(self, path: str, body: bytes, token: str) -> tuple[int, Any]:
        if path == "/api/whoami-v2":
            role = "write" if token == GOOD_TOKEN else "read"
            return 200, {"type": "user", "name": "ann", "auth": {"accessToken": {"role": role}}}
        if path == "/api/repos/create":
            return self._create(json.loads(body), token)
        if path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            bad = [] if content.startswith("---\n") else [{"message": "no metadata"}]
            return (400 if bad else 200), {"errors": bad, "warnings": []}
        if path == "/verify":
            stored = self.hub.large.get(json.loads(body)["oid"])
            return (200 if stored is not None else 404), {}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": self._batch(json.loads(body))}
        return self._repo(path, body)

    def _create(self, asked: dict[str, Any], token: str) -> tuple[int, Any]:
        repo_id = f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.endpoint}/{repo_id}"
        if token == READ_TOKEN:
            return 403, {
                "error": "You don't have the rights to create a model under this namespace"
            }
        if repo_id in self.hub.repos:
            return 409, {"error": "You already created this model repo", "url": url}
        self.hub.repos[repo_id] = Repo(private=asked.get("visibility") == "private")
        return 200, {"url": url}

    def _batch(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        endpoint = self.hub.endpoint
        return [
            one
            | {
                "actions": {
                    "upload": {"href": f"{endpoint}/stored/{one['oid']}"},
                    "verify": {"href": f"{endpoint}/verify"},
                }
            }
            for one in asked["objects"]
        ]

    def _repo(self, path: str, body: bytes) -> tuple[int, Any]:
        owner, name, *rest = path.removeprefix("/api/models/").split("/")
        repo = self.hub.repos.get(f"{owner}/{name}")
        if repo is None:
            return 404, {"error": "Repository not found"}
        if not rest:
            found = {"id": f"{owner}/{name}", "private": repo.private, "sha": COMMIT}
            return 200, found | {"tags": [], "siblings": []}
        if rest == ["preupload", "main"]:
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if rest != ["commit", "main"]:
            return 404, {"error": path}
        if name == "full":
            return 403, {"error": "Private repository storage limit reached"}
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.large[value["oid"]]
        url = f"{self.hub.endpoint}/{owner}/{name}/commit/{COMMIT}"
        return 200, {"commitUrl": url, "commitOid": COMMIT}

    def log_message(self, *_: object) -> None:
        """Say nothing: the tests look at what came."""


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A Hub on this machine, for as long as the block lasts."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""The Hub, spoken to over HTTP: a local server that answers as huggingface.co does."""

import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONFIG = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
COMMIT = "a" * 40
ASK = """
import json, sys
from estimator.models import resolve_model
from estimator.problems import InputError
try:
    found = resolve_model(sys.argv[1])
    answer = {"config": found.config, "parameters": found.num_parameters, "source": found.source}
except InputError as error:
    answer = {"problem": str(error)}
print(json.dumps(answer))
"""


def safetensors() -> bytes:
    """A file of one tensor of eight bf16 values, as far as its header tells."""
    header = {"w": {"dtype": "BF16", "shape": [2, 4], "data_offsets": [0, 16]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(16)


FILES = {
    "/good/model/resolve/main/config.json": json.dumps(CONFIG).encode(),
    "/good/model/resolve/main/model.safetensors": safetensors(),
    "/bare/model/resolve/main/config.json": json.dumps(CONFIG).encode(),
}
ERRORS = {
    "/gated/": (401, "GatedRepo"),
    "/nobody/": (401, "RepoNotFound"),
    "/good/": (404, "EntryNotFound"),
    "/bare/": (404, "EntryNotFound"),
    "/empty/": (404, "EntryNotFound"),
    "/broken/": (503, ""),
}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        body = FILES.get(self.path)
        if body is None:
            code, name = next((e for start, e in ERRORS.items() if self.path.startswith(start)))
            self.send_response(code)
            if name:
                self.send_header("X-Error-Code", name)
                self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{len(body)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the tests look at answers alone."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def ask(name: str, endpoint: str, cache: Path, **environment: str) -> dict[str, object]:
    """Resolve a model in a process of its own: huggingface_hub reads its settings once."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
    settings["NO_PROXY"] = "127.0.0.1"
    result = subprocess.run(
        [sys.executable, "-c", ASK, name],
        env={**os.environ, **settings, **environment},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(result.stdout)


def test_a_model_on_the_hub_is_read_without_its_weights(endpoint: str, tmp_path: Path) -> None:
    answer = ask("good/model", endpoint, tmp_path)
    assert answer["config"] == CONFIG
    assert answer["parameters"] == 8
    assert "good/model on the Hub" in str(answer["source"])
    cached = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert "model.safetensors" not in cached


def test_what_was_once_read_is_there_without_the_hub(endpoint: str, tmp_path: Path) -> None:
    ask("good/model", endpoint, tmp_path)
    later = ask("good/model", "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert later["config"] == CONFIG
    assert later["parameters"] is None


def test_a_model_without_safetensors_has_an_unknown_count(endpoint: str, tmp_path: Path) -> None:
    assert ask("bare/model", endpoint, tmp_path)["parameters"] is None


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "gated/model",
            ["is gated", "https://huggingface.co/gated/model", "hf auth login", "HF_TOKEN"],
        ),
        ("nobody/model", ["is not on the Hub, or is private", "spelling"]),
        ("empty/model", ["has no config.json on the Hub"]),
        ("broken/model", ["does not answer", "bundled id", "local folder"]),
        ("nobody/Llama-2-7b-hf", ["meta-llama/Llama-2-7b-hf"]),
        ("bad/na me", ["well-formed Hub id"]),
    ],
)
def test_what_the_hub_refuses_comes_with_what_to_do(
    endpoint: str, tmp_path: Path, name: str, says: list[str]
) -> None:
    problem = str(ask(name, endpoint, tmp_path)["problem"])
    assert all(part in problem for part in says), problem
    assert "\n" not in problem


@pytest.mark.parametrize(("offline", "says"), [("0", "does not answer"), ("1", "HF_HUB_OFFLINE")])
def test_without_the_hub_there_are_bundled_and_local_models(
    tmp_path: Path, offline: str, says: str
) -> None:
    answer = ask("some/model", "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE=offline)
    problem = str(answer["problem"])
    assert says in problem
    assert "bundled id" in problem
    assert "local folder" in problem

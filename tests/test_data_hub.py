"""Datasets of the Hub, over HTTP: a local server that answers as huggingface.co does."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

COMMIT = "a" * 40
ASK = """
import json, sys
from estimator.problems import InputError
from trainer.examples import open_examples
answers = []
for name in sys.argv[1:]:
    try:
        answers.append([example.completion for example in open_examples(name)])
    except InputError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""
CONVERTED = "refs%2Fconvert%2Fparquet"


def table(text: str) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"text": [text]}), sink)
    return sink.getvalue().to_pybytes()


def lines(*texts: str) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


# What each dataset holds, by revision: many are converted to Parquet by the Hub, some are not.
DATASETS = {
    ("good/data", CONVERTED): {
        "default/train/0000.parquet": table("one"),
        "default/train/0001.parquet": table("two"),
        "default/test/0000.parquet": table("held out"),
        "other/train/0000.parquet": table("of the other config"),
    },
    ("plain/data", "main"): {
        "README.md": b"words",
        "evil.py": b"raise SystemExit",
        "data/train.jsonl": lines("a", "b"),
        "data/test.jsonl": lines("c"),
    },
    ("code/data", "main"): {"code.py": b"raise SystemExit", "images.zip": b"PK"},
}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        status, body, error = self.found()
        self.send_response(status)
        if error:
            self.send_header("X-Error-Code", error)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(body)}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def found(self) -> tuple[int, bytes, str]:
        parts = self.path.partition("?")[0].strip("/").split("/")
        is_listing = parts[0] == "api"
        name = "/".join(parts[2:4] if is_listing else parts[1:3])
        if not any(name == one for one, _ in DATASETS):
            return 401, b"", "RepoNotFound"
        revision = parts[5] if is_listing and len(parts) > 5 else parts[4] if not is_listing else ""
        files = DATASETS.get((name, revision or "main"))
        if files is None:
            return 404, b"", "RevisionNotFound"
        if not is_listing:
            return 200, files["/".join(parts[5:])], ""
        info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        return 200, json.dumps(info).encode(), ""

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


def ask(endpoint: str, cache: Path, *names: str, offline: str = "0") -> list[list[str] | str]:
    """Read datasets in a process of its own: huggingface_hub reads its settings once."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": offline}
    result = subprocess.run(
        [sys.executable, "-c", ASK, *names],
        env={**os.environ, **settings, "NO_PROXY": "127.0.0.1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(result.stdout)


def test_data_files_of_a_dataset_are_fetched_and_no_code(endpoint: str, tmp_path: Path) -> None:
    names = ["good/data", "good/data:other", "good/data:default/test", "plain/data"]
    names += ["plain/data:default/test", "good/data:none", "code/data", "nobody/data"]
    *read, no_config, no_data, nobody = ask(endpoint, tmp_path, *names)
    assert read == [["one", "two"], ["of the other config"], ["held out"], ["a", "b"], ["c"]]
    assert "has no config 'none'; allowed: default, other" in no_config
    assert "holds no data files" in no_data
    assert "on the Hub it is not there or private" in nobody
    assert not list(tmp_path.rglob("*.py"))

    again = ask("http://127.0.0.1:9", tmp_path, "good/data", "plain/data", "new/data", offline="1")
    assert again[:2] == [["one", "two"], ["a", "b"]]
    assert "HF_HUB_OFFLINE is set" in again[2]

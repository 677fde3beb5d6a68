"""Secrets and local folders kept out of what is logged, shown or published."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Iterable, Mapping
from io import TextIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TextIO

from estimator.documents import is_there
from estimator.problems import InputError, Problem

MASK = "***"

MIN_SECRET_LENGTH = 8
"""A shorter value of a variable is a word rather than a secret, and may stand anywhere."""

_PATH_KEYS = ("path", "file", "dir", "folder", "model")

_SECRET_NAMES = ("TOKEN", "KEY", "SECRET", "PASSWORD")

# How issuers write their keys: what stands before them in the text is kept where it is a group.
_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"()\bhf_[A-Za-z0-9]{16,}",  # Hugging Face
        r"()\bapi_org_[A-Za-z0-9]{16,}",
        r"()\bsk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and others
        r"()\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",  # AWS
        r"()\bgh[pousr]_[A-Za-z0-9]{20,}",  # GitHub
        r"()\bgithub_pat_[A-Za-z0-9_]{20,}",
        r"()\bglpat-[A-Za-z0-9_-]{16,}",  # GitLab
        r"()\bxox[abprs]-[A-Za-z0-9-]{10,}",  # Slack
        r"()\bAIza[A-Za-z0-9_-]{30,}",  # Google
        r"(\b[Bb]earer\s+)[A-Za-z0-9._~+/-]{8,}=*",
        r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+(?=@)",  # user:password@host
    )
)


def mask_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Return ``text`` with ``***`` in place of every secret that can be told as one.

    Told are keys in the form of well-known issuers, bearer tokens, passwords in addresses, and
    the values of environment variables whose names end in TOKEN, KEY, SECRET or PASSWORD.

    Args:
        text: Anything that is about to be written or shown.
        environment: The variables to look at; this process's own where it is None.
    """
    for value in _secret_values(os.environ if environment is None else environment):
        text = text.replace(value, MASK)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{MASK}", text)
    return text


def mask_document(value: Any) -> Any:
    """Return a JSON value with the secrets in its texts masked."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, Mapping):
        return {key: mask_document(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_document(inner) for inner in value]
    return value


def _secret_values(environment: Mapping[str, str]) -> list[str]:
    """The secrets among variables, the longest first: one may be the start of another."""
    values = {
        value.strip()
        for name, value in environment.items()
        if name.upper().endswith(_SECRET_NAMES) and len(value.strip()) >= MIN_SECRET_LENGTH
    }
    return sorted(values, key=len, reverse=True)


def refuse_secrets(document: Any, name: str) -> None:
    """Refuse a document that is about to be kept, where it holds what looks like a key.

    Raises:
        InputError: It does; the problem names where, not what.
    """
    found = [
        Problem(f"{name}: {where}", "holds what looks like a key or password", fix=_KEEP_OUT)
        for where, text in _texts(document)
        if mask_secrets(text, {}) != text
    ]
    if found:
        raise InputError(found)


_KEEP_OUT = "leave it out: it would be kept with the run; set HF_TOKEN or run `hf auth login`"


def _texts(value: Any, where: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(inner, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{where}[{index}]")


def redact_paths(value: Any, key: str = "") -> Any:
    """Return a JSON value with the last name alone of every path that leads through a machine.

    ``/home/ann/data/train.jsonl`` becomes ``train.jsonl``; ``owner/name`` stays as it is. A text
    that only looks like a path (a token of a vocabulary, say) is one where its key says so or
    where there is such a file.

    Args:
        value: Any JSON value.
        key: The name that it goes by.
    """
    if isinstance(value, str):
        return _last_name(value, key)
    if isinstance(value, Mapping):
        return {name: redact_paths(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_paths(inner, key) for inner in value]
    return value


def _last_name(text: str, key: str) -> str:
    if "://" in text:
        return text
    windows, path = PureWindowsPath(text), PurePosixPath(text)
    is_local = (
        path.is_absolute()
        or bool(windows.drive and windows.root)
        or text.startswith(("~", "./"))
        or ".." in path.parts
    )
    is_path = key.endswith(_PATH_KEYS) or (len(path.parts) > 2 and is_there(Path(text)))
    return file_name(text) if is_local and is_path else text


def redact_plan(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan without the folders of the machine that it was made on.

    A model on the Hub keeps its id; a model or data on this machine keep their last name.
    """
    found = dict(redact_paths(document))
    model, data = found.get("model"), found.get("data")
    if isinstance(model, str) and is_there(Path(model)):
        found["model"] = file_name(model)
    if isinstance(data, Mapping) and isinstance(data.get("path"), str):
        found["data"] = {**data, "path": file_name(data["path"])}
    return found


def file_name(path: str) -> str:
    """Return the last name of a path as any system writes it."""
    return PureWindowsPath(path).name


class MaskedStream(TextIOBase):
    """A text stream that masks secrets line by line, and passes the rest on as it is.

    A line is held until it ends, so that a secret written in pieces is still seen whole; flushing
    lets go of what is held. What a C library writes to the file descriptor does not pass here.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._held = ""
        self._turn = threading.RLock()  # threads write as well, and a signal may come in between

    def write(self, text: str) -> int:
        """Mask and pass on every line that is now whole."""
        with self._turn:
            self._held += text
            end = max(self._held.rfind("\n"), self._held.rfind("\r")) + 1
            if end:
                whole, self._held = self._held[:end], self._held[end:]
                self._stream.write(mask_secrets(whole))
        return len(text)

    def flush(self) -> None:
        """Pass on what is held, masked."""
        with self._turn:
            held, self._held = self._held, ""
            if held:
                self._stream.write(mask_secrets(held))
            self._stream.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether a person looks on."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor behind the stream, past which nothing is masked."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The encoding of the stream behind it; TextIOBase has an attribute in its place."""
        return self._stream.encoding


def mask_output() -> None:
    """Mask secrets in all that this process writes to stdout and stderr from Python on.

    To be called first in a worker, before libraries keep hold of the streams.
    """
    sys.stdout = MaskedStream(sys.stdout)
    sys.stderr = MaskedStream(sys.stderr)

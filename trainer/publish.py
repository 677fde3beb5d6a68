"""A saved fine-tune goes to the Hugging Face Hub: its weights, card and plan, and nothing else.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` work as they do for
huggingface_hub. The token is sent to the Hub in a header; it is not written anywhere.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from estimator.documents import read_text
from estimator.problems import InputError, Problem
from trainer.pickles import has_safetensors
from trainer.redact import mask_document, mask_secrets, redact_paths, redact_plan

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PLAN, CARD = "plan.json", "README.md"

_WEIGHTS = (
    "adapter_model*.safetensors",
    "model*.safetensors",
)
_SETTINGS = (
    "adapter_config.json",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
_TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
_MEANT_FOR_OTHERS = (
    *_WEIGHTS,
    "model.safetensors.index.json",
    *_SETTINGS,
    *_TOKENIZER,
    CARD,
    PLAN,
)
"""What is published, by name; whatever else lies in the folder stays here."""

_LOG_IN = "run `hf auth login`, or set HF_TOKEN to a token that may write"


def push(
    folder: Path,
    repo_id: str,
    *,
    private: bool = True,
    on_progress: Callable[[str], None] = lambda _: None,
) -> str:
    """Upload a saved adapter or model, with its card and plan, in one commit.

    Only files of known names are sent; folders of this machine and secrets are taken out of those
    that are JSON or the card. A repository that is there already gets a new commit.

    Args:
        folder: Where the fine-tune was saved.
        repo_id: ``owner/name`` on the Hub.
        private: Whether only its owner may see it.
        on_progress: Told what is being done.

    Returns:
        The address of the model's page.

    Raises:
        InputError: Nothing can be published from there, there is no token, or the Hub refuses
            or does not answer; the problem says what to do.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    contents = published_files(folder)
    with _hub_problems(repo_id):
        _check_id(repo_id)
        token = get_token()
        if not token:
            raise _problem(repo_id, "nobody is logged in to the Hub on this machine", fix=_LOG_IN)
        api = HfApi(token=token, library_name="tuneplan")
        on_progress(f"opening {repo_id} ({'private' if private else 'public'})")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if private:
            _refuse_public(api, repo_id)
        size_mb = sum(_size_bytes(one) for one in contents.values()) / 10**6
        on_progress(f"uploading {len(contents)} files, {size_mb:,.1f} MB")
        _commit(api, repo_id, contents)
    return str(url)


def check_push(repo_id: str) -> None:
    """Find out before hours of training what would stand against a push, as far as it shows.

    Raises:
        InputError: The id is not one, nobody is logged in, or the Hub does not know the token or
            lets it only read.
    """
    from huggingface_hub import HfApi, get_token

    with _hub_problems(repo_id):
        _check_id(repo_id)
        token = get_token()
        if not token:
            raise _problem(repo_id, "nobody is logged in to the Hub on this machine", fix=_LOG_IN)
        user = HfApi(token=token, library_name="tuneplan").whoami()
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise _problem(repo_id, "the token may only read", "a token that may write", _LOG_IN)


def published_files(folder: Path) -> dict[str, Path | bytes]:
    """Return what of a folder is published, by name: a file as it is, or the bytes in its place.

    Raises:
        InputError: The folder holds no weights as safetensors, or a file that cannot be read.
    """
    files = sorted(
        file
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.is_file()
        and not file.is_symlink()  # it could lead to anything
        and any(fnmatch(file.name, pattern) for pattern in _MEANT_FOR_OTHERS)
    )
    has_weights = any(fnmatch(file.name, one) for file in files for one in _WEIGHTS)
    if not has_weights and not has_safetensors(folder):
        what = "holds no adapter and no model that could be published"
        fix = "name the folder in which a fine-tune was saved"
        raise InputError(Problem(str(folder), what, "*.safetensors and their configuration", fix))
    return {file.name: _content(file) for file in files}


def _content(file: Path) -> Path | bytes:
    """A file, or the bytes that stand in for it where it tells of this machine or of a secret."""
    if file.name == CARD:
        text = read_text(file)
        masked = mask_secrets(text)
        return file if masked == text else masked.encode()
    if file.name == PLAN or file.name in _SETTINGS:
        document = _read_json(file)
        redacted = (redact_plan if file.name == PLAN else redact_paths)(document)
        masked = mask_document(redacted)
        if masked != document:
            return (json.dumps(masked, indent=2, ensure_ascii=False) + "\n").encode()
    return file


def _read_json(file: Path) -> Any:
    text = read_text(file)
    try:
        return json.loads(text)
    except ValueError as error:
        raise InputError(
            Problem(str(file), f"is not JSON ({error})", fix="save it again")
        ) from error


def _size_bytes(content: Path | bytes) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _check_id(repo_id: str) -> None:
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repo_id)
    if "/" not in repo_id:
        fix = f"write your user name before it: you/{repo_id}"
        raise _problem(repo_id, "names no owner", "owner/name", fix)


def _refuse_public(api: HfApi, repo_id: str) -> None:
    """A repository that is there keeps its visibility, whatever was asked for."""
    if api.model_info(repo_id).private is False:
        what = "is on the Hub already, and public; what you push would be seen by everybody"
        raise _problem(repo_id, what, fix="say --public if that is meant, or name another")


def _commit(api: HfApi, repo_id: str, contents: dict[str, Path | bytes]) -> None:
    from huggingface_hub import CommitOperationAdd

    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in contents.items()
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints on metadata that a card may do without
        api.create_commit(repo_id, operations, commit_message="Upload a fine-tune by tuneplan")


@contextmanager
def _hub_problems(repo_id: str) -> Iterator[None]:
    """Say in one line what went wrong, whoever says it."""
    from httpx2 import HTTPError
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        OIDCError,
    )

    try:
        yield
    except InputError:
        raise
    except HFValidationError as error:
        fix = "write it as the Hub does: letters, digits, `-`, `_` and `.`"
        raise _problem(repo_id, "is no well-formed id", "owner/name", fix) from error
    except HfHubHTTPError as error:
        raise _refused(repo_id, error) from error
    except OfflineModeIsEnabled as error:
        what = "cannot be pushed to: HF_HUB_OFFLINE is set"
        raise _problem(repo_id, what, fix="unset HF_HUB_OFFLINE") from error
    except (HTTPError, ConnectionError) as error:
        from huggingface_hub import constants

        what = f"the Hub ({constants.ENDPOINT}) does not answer"
        raise _problem(repo_id, what, fix="check the connection, and push again") from error
    except (OSError, ValueError, RuntimeError, OIDCError) as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):  # of one file among several
            raise _refused(repo_id, cause) from error
        what = f"cannot be pushed to ({_line(error)})"
        raise _problem(repo_id, what, fix="push again once that is put right") from error


def _refused(repo_id: str, error: Any) -> InputError:
    """What an answer of the Hub means for whoever pushes."""
    status = error.response.status_code
    said = _line(error.server_message or "")
    because = f" ({said})" if said else ""
    if status == 401:
        return _problem(repo_id, f"the Hub does not accept the token{because}", fix=_LOG_IN)
    if status in (402, 413, 429, 507) or (status == 403 and "limit" in said.lower()):
        what = f"the Hub's limits do not allow it{because}"
        return _problem(repo_id, what, fix="free some space there, wait, or push --public")
    if status == 403:
        fix = "push to an account of yours, with a token that may write (not a read token)"
        return _problem(repo_id, f"the token may not write there{because}", fix=fix)
    if status == 404:
        return _problem(repo_id, f"is not there, or not yours{because}", fix="check its spelling")
    what = f"the Hub answered with status {status}{because}"
    return _problem(repo_id, what, fix="try again later" if status >= 500 else "correct that")


def _line(error: object) -> str:
    return mask_secrets(" ".join(str(error).split()))[:200]


def _problem(repo_id: str, what: str, allowed: str = "", fix: str = "") -> InputError:
    words = f"push to {repo_id}", what, allowed, fix  # somebody may have typed the token as the id
    return InputError(Problem(*map(mask_secrets, words)))

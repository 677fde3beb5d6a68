"""The Hugging Face Hub: a model's configuration, and its weights where they are asked for.

``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` work as they do for
huggingface_hub, which this module imports only when the Hub is really asked.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from estimator.problems import InputError, Problem

TIMEOUT_SECONDS = 8.0
"""How long one answer of the Hub may take."""

_CONFIG = "config.json"
_OF_A_MODEL = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja"]
_OTHER_COPIES = ["original/*", "consolidated*", "onnx/*"]
_WITHOUT_HUB = "use a bundled id, or a local folder that holds config.json"


def download_config(model_id: str) -> Path:
    """Return the path of a model's config.json, from the local cache or the Hub.

    Raises:
        InputError: The Hub cannot be reached, does not know the model, or does not let this
            user see it; the problem says what to do.
    """
    from huggingface_hub import hf_hub_download

    with _refusals(model_id):
        only_cache = not _answers(model_id)
        return Path(hf_hub_download(model_id, _CONFIG, local_files_only=only_cache))


def download_model(model_id: str) -> Path:
    """Return the folder of a model's weights and tokenizer, from the local cache or the Hub.

    Only safetensors and texts are fetched: no pickles, and no Python code.

    Raises:
        InputError: As :func:`download_config`; or the disk has no room for it.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    with _refusals(model_id):
        only_cache = not _answers(model_id)
        if not only_cache:
            files = HfApi().model_info(model_id, files_metadata=True).siblings or []
            size = sum(file.size or 0 for file in files if file.rfilename.endswith(".safetensors"))
            _check_room(model_id, Path(constants.HF_HUB_CACHE), size)
        found = snapshot_download(
            model_id,
            allow_patterns=_OF_A_MODEL,
            ignore_patterns=_OTHER_COPIES,
            local_files_only=only_cache,
        )
        return Path(found)


def download_code(model_id: str) -> Path:
    """Return the folder of a model's Python code, configuration and tokenizer.

    For whoever trusts that code: it is only fetched here, into the folder of the cache in which
    :func:`download_model` puts the weights.

    Raises:
        InputError: As :func:`download_config`.
    """
    from huggingface_hub import snapshot_download

    with _refusals(model_id):
        only_cache = not _answers(model_id)
        wanted = [one for one in _OF_A_MODEL if one != "*.safetensors"]
        found = snapshot_download(
            model_id,
            allow_patterns=[*wanted, "*.py"],
            ignore_patterns=_OTHER_COPIES,
            local_files_only=only_cache,
        )
        return Path(found)


def cached_model(model_id: str) -> Path | None:
    """Return the folder in the Hub's local cache that holds a model, None where there is none.

    Nobody is asked over the network; some of the model's files may be missing.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model_id, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def _check_room(model_id: str, cache: Path, size_bytes: int) -> None:
    existing = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size_bytes:
        what = f"its weights take {size_bytes / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
        raise _problem(model_id, what, fix="free some space, or set HF_HOME to another disk")


@contextlib.contextmanager
def _refusals(model_id: str) -> Iterator[None]:
    """Turn what the Hub's library raises into a problem with a remedy."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        what = "is neither a folder here nor a well-formed Hub id"
        raise _problem(model_id, what, "owner/name", "correct it, or name a folder") from error
    except GatedRepoError as error:
        raise _gated(model_id) from error
    except RepositoryNotFoundError as error:
        what = "is not on the Hub, or is private"
        fix = "check the spelling; for a private model run `hf auth login` or set HF_TOKEN"
        raise _problem(model_id, what, fix=fix) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(model_id) from error
    except EntryNotFoundError as error:
        what = "has no config.json on the Hub, so it is not a transformers model"
        raise _problem(model_id, what, fix="use the original model's id") from error
    except HfHubHTTPError as error:
        what = f"the Hub answered with status {error.response.status_code}"
        raise _problem(model_id, what, fix=f"try again later, or {_WITHOUT_HUB}") from error
    except OSError as error:
        what = f"cannot be fetched from the Hub ({' '.join(str(error).split())[:120]})"
        raise _problem(
            model_id, what, fix=f"check HF_ENDPOINT and HF_HOME, or {_WITHOUT_HUB}"
        ) from error


def count_parameters(model_id: str) -> dict[str, int] | None:
    """Return how many values of each dtype a model's safetensors files hold.

    Only the files' headers are read. A total may count buffers, and parts of a multimodal model
    that its text configuration leaves out.

    Returns:
        Counts by dtype (``{"BF16": 8030261248}``), or None where the model has no safetensors
        or the Hub does not say.
    """
    from httpx2 import HTTPError  # what huggingface_hub speaks HTTP with
    from huggingface_hub import HfApi
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        metadata = HfApi().get_safetensors_metadata(model_id, timeout=TIMEOUT_SECONDS)
    except (NotASafetensorsRepoError, SafetensorsParsingError, HTTPError, OSError):
        return None  # a count is a nicety: the configuration alone is enough to go on
    return {str(dtype): count for dtype, count in metadata.parameter_count.items()}


def _answers(model_id: str) -> bool:
    """Whether the Hub can be asked at all: hf_hub_download tries for half a minute to find out."""
    from httpx2 import HTTPError
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        get_hf_file_metadata(hf_hub_url(model_id, _CONFIG), timeout=TIMEOUT_SECONDS)
    except HfHubHTTPError as error:
        return error.response.status_code < 500
    except (HTTPError, OfflineModeIsEnabled):
        return False
    return True


def _problem(model_id: str, what: str, allowed: str = "", fix: str = "") -> InputError:
    return InputError(Problem(f"model: {model_id}", what, allowed, fix))


def _gated(model_id: str) -> InputError:
    what = "is gated: the Hub shows it only to those who accepted its licence"
    fix = (
        f"accept the licence at https://huggingface.co/{model_id}, then run `hf auth login` "
        "or set HF_TOKEN"
    )
    return _problem(model_id, what, fix=fix)


def _unreachable(model_id: str) -> InputError:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        what = "is not in the local cache, and HF_HUB_OFFLINE is set"
        return _problem(model_id, what, fix=f"unset HF_HUB_OFFLINE, or {_WITHOUT_HUB}")
    what = f"is not bundled, and the Hub ({constants.ENDPOINT}) does not answer"
    return _problem(model_id, what, fix=f"check the connection, or {_WITHOUT_HUB}")

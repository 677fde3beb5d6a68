"""Datasets on the Hugging Face Hub: data files alone are fetched, and no code of theirs is run.

The Hub converts most datasets to Parquet by itself, in the revision ``refs/convert/parquet``,
where a file is ``config/split/0000.parquet``. Where there is none, the data files of the dataset
itself are taken. ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME`` and ``HF_HUB_OFFLINE`` work as they do
for huggingface_hub.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from estimator.hub import TIMEOUT_SECONDS
from estimator.problems import InputError, Problem

_CONVERTED = "refs/convert/parquet"
_DATA_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv")
_NO_DATA = ("dataset_info.json", "dataset_infos.json", "state.json")
_LOCAL = "download it, and name the file"


def download_dataset(source: str) -> list[Path]:
    """Return the paths of a dataset's data files, from the local cache or the Hub.

    Args:
        source: ``owner/name``, ``owner/name:config`` or ``owner/name:config/split``. Where they
            are not named, the config is ``default`` or the only one, and the split ``train`` or
            the only one.

    Raises:
        InputError: The Hub cannot be reached or does not show the dataset; it holds no data
            files; or it has no such config or split: those it has are listed.
    """
    from huggingface_hub import hf_hub_download

    name, _, rest = source.partition(":")
    config, _, split = rest.partition("/")
    with _refusals(name):
        revision, files = _files(name)
        chosen = (
            _converted(source, files, config, split)
            if revision
            else _as_uploaded(source, files, config, split)
        )
        return [
            Path(hf_hub_download(name, file, repo_type="dataset", revision=revision))
            for file in chosen
        ]


def _files(name: str) -> tuple[str | None, list[str]]:
    """A dataset's files, and the revision they are in: the converted one, or None for its own."""
    from httpx2 import HTTPError
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RevisionNotFoundError,
    )
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    for revision in (_CONVERTED, None):
        try:
            info = HfApi().dataset_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
            return revision, sorted(file.rfilename for file in info.siblings or ())
        except RevisionNotFoundError:
            continue
        except (HTTPError, OfflineModeIsEnabled) as error:
            if isinstance(error, HfHubHTTPError):
                raise
            with contextlib.suppress(LocalEntryNotFoundError):
                folder = Path(
                    snapshot_download(
                        name, repo_type="dataset", revision=revision, local_files_only=True
                    )
                )
                kept = [path for path in folder.rglob("*") if path.is_file()]
                return revision, sorted(path.relative_to(folder).as_posix() for path in kept)
    raise _unreachable(name)


def _converted(source: str, files: Sequence[str], config: str, split: str) -> list[str]:
    parts = [file.split("/") for file in files if file.endswith(".parquet")]
    there = [(one[0], one[1], "/".join(one)) for one in parts if len(one) == 3]
    config = _choose(source, "config", config, [one[0] for one in there], "default")
    there = [one for one in there if one[0] == config]
    split = _choose(source, "split", split, [one[1] for one in there], "train")
    return [file for _, its_split, file in there if its_split == split]


def _choose(source: str, kind: str, named: str, found: Sequence[str], usual: str) -> str:
    choices = list(dict.fromkeys(found))
    if not choices:
        raise _problem(source, "holds no data files", fix=_LOCAL)
    if named in choices:
        return named
    if not named and usual in choices:
        return usual
    if not named and len(choices) == 1:
        return choices[0]
    what = f"has no {kind} {named!r}" if named else f"has several {kind}s, and none is named"
    fix = "name one, as in owner/name:config/split"
    raise _problem(source, what, ", ".join(choices[:40]), fix)


def _as_uploaded(source: str, files: Sequence[str], config: str, split: str) -> list[str]:
    """Data files by the words in their paths, as the Hub's own rules go."""
    data = [
        file for file in files if file.endswith(_DATA_SUFFIXES) and Path(file).name not in _NO_DATA
    ]
    if not data:
        raise _problem(source, "holds no data files", ", ".join(_DATA_SUFFIXES), _LOCAL)
    if config and config != "default":
        data = [file for file in data if _has_word(file, config)]
    of_split = [file for file in data if _has_word(file, split or "train")]
    if of_split:
        return of_split
    splits = ("test", "validation", "valid", "dev", "eval", "train")
    if data and not split and not any(_has_word(file, one) for file in data for one in splits):
        return data
    raise _problem(source, "has no such files", ", ".join(files[:40]), "name a config and split")


def _has_word(path: str, word: str) -> bool:
    return bool(re.search(rf"(?:^|[/_.-]){re.escape(word)}(?=[/_.-])", path))


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Turn what the Hub's library raises into a problem with a remedy."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        yield
    except HFValidationError as error:
        raise _problem(name, "is neither a file here nor a well-formed Hub id") from error
    except GatedRepoError as error:
        what = "is gated: the Hub shows it only to those who accepted its terms"
        fix = "accept them on its page on the Hub, then run `hf auth login` or set HF_TOKEN"
        raise _problem(name, what, fix=fix) from error
    except RepositoryNotFoundError as error:
        what = "is no file here, and on the Hub it is not there or private"
        fix = "check the spelling; for a private dataset run `hf auth login` or set HF_TOKEN"
        raise _problem(name, what, fix=fix) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(name) from error
    except HfHubHTTPError as error:
        what = f"the Hub answered with status {error.response.status_code}"
        raise _problem(name, what, fix=f"try again later, or {_LOCAL}") from error
    except OSError as error:
        what = f"cannot be fetched from the Hub ({' '.join(str(error).split())[:120]})"
        raise _problem(name, what, fix=f"check HF_ENDPOINT and HF_HOME, or {_LOCAL}") from error


def _unreachable(name: str) -> InputError:
    from huggingface_hub import constants

    if constants.is_offline_mode():
        what = "is no file here, is not in the local cache, and HF_HUB_OFFLINE is set"
    else:
        what = f"is no file here, and the Hub ({constants.ENDPOINT}) does not answer"
    return _problem(name, what, fix="check the path; for a dataset of the Hub, the connection")


def _problem(name: str, what: str, allowed: str = "", fix: str = "check it") -> InputError:
    return InputError(Problem(f"data: {name}", what, allowed, fix))

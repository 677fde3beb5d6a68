"""Where a model's weights are: in its folder, in the Hub's cache, or still on the Hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from estimator import hub
from estimator.models import ResolvedModel
from estimator.problems import InputError, Problem
from trainer.pickles import has_safetensors


def find_weights(model: str, facts: ResolvedModel, on_activity: Callable[[str], None]) -> Path:
    """Return the folder that holds a model's weights and tokenizer, fetched where need be.

    Raises:
        InputError: There are none, or they cannot be fetched.
    """
    folder = facts.folder
    if folder is None:
        on_activity(f"fetching {model} from the Hub")
        folder = hub.download_model(model)
    _check_folder(model, folder)
    return folder


def check_weights(facts: ResolvedModel) -> None:
    """Look at a local model without loading it; what is on the Hub shows once it is fetched.

    Raises:
        InputError: Its folder has no weights as safetensors, or no tokenizer.
    """
    if facts.folder is not None:
        _check_folder(facts.name, facts.folder)


def _check_folder(model: str, folder: Path) -> None:
    if not has_safetensors(folder):
        what = f"there are no weights in {folder}"
        fix = "name a folder with model.safetensors; a probe alone can do without"
        raise InputError(Problem(f"model: {model}", what, "*.safetensors", fix))
    if not (folder / "tokenizer_config.json").exists():
        what = f"there is no tokenizer in {folder}"
        raise InputError(Problem(f"model: {model}", what, fix="save the tokenizer there as well"))

"""From a model's name to its configuration: a folder, a bundled model, or the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estimator import hub
from estimator.catalogue import bundled_spelling, close_bundled_ids, find_bundled_model
from estimator.documents import is_there, read_document
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that was found.

    Attributes:
        name: Its id, or the path that was given.
        config: Its config.json; of a multimodal model the text part.
        folder: Where weights and tokenizer may lie, if it is here.
        num_parameters: Every parameter, tied tensors once, where a source says so.
        source: Where these facts come from.
    """

    name: str
    config: dict[str, Any]
    folder: Path | None
    num_parameters: int | None
    source: str


def resolve_model(name: str) -> ResolvedModel:
    """Return the model that ``name`` stands for.

    Looked for in this order: a local folder or config.json, the bundled models, the Hub.

    Raises:
        InputError: There is no such model, or its configuration cannot be used.
    """
    path = _expanded(name)
    if is_there(path):
        return _from_path(name, path)
    card = find_bundled_model(name)
    if card is not None:
        spelling = bundled_spelling(name)
        same = "" if spelling == card.id else f"; same shape as {card.id}"
        source = f"bundled: {card.source}{same}"
        return ResolvedModel(spelling, card.config, None, card.parameters, source)
    if not _looks_like_hub_id(name):
        what = "no such folder or file, and no bundled model of that name"
        raise InputError(Problem(f"model: {name}", what, *_suggestions(name)))
    return _from_hub(name)


def local_problems(name: str) -> tuple[Problem, ...]:
    """Return what is wrong with a model's name, as far as can be said without asking the Hub."""
    if _looks_like_hub_id(name) and not is_there(_expanded(name)):
        return ()
    try:
        resolve_model(name)
    except InputError as error:
        return error.problems
    return ()


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~someone, whom this machine does not know
        return Path(name)


def _from_path(name: str, path: Path) -> ResolvedModel:
    folder = path if path.is_dir() else path.parent
    file = path / "config.json" if path.is_dir() else path
    if _is_missing(file):
        what = "the folder has no config.json"
        fix = "name the folder that save_pretrained wrote (an adapter's folder is not a model)"
        raise InputError(Problem(f"model: {name}", what, fix=fix))
    config = _text_config(read_document(file), str(file))
    return ResolvedModel(name, config, folder, None, f"config.json in {folder}")


def _is_missing(file: Path) -> bool:
    try:
        return not file.exists()
    except OSError:  # in a folder that cannot be read: reading the file says so
        return False


def _from_hub(name: str) -> ResolvedModel:
    try:
        file = hub.download_config(name)
    except InputError as error:
        close = close_bundled_ids(name)
        if not close:
            raise
        (problem,) = error.problems
        fix = f"{problem.fix}; bundled ids that look like it: {', '.join(close)}"
        raise InputError(Problem(problem.where, problem.what, problem.allowed, fix)) from error
    whole = read_document(file)
    config = _text_config(whole, f"{name}: config.json")
    counts = hub.count_parameters(name) if config is whole else None  # a total counts all parts
    total = sum(counts.values()) if counts else None
    return ResolvedModel(name, config, None, total, f"config.json of {name} on the Hub")


def _text_config(config: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the language model's part of a configuration, itself where it has no parts."""
    text = config.get("text_config")
    if isinstance(text, dict):
        shared = {
            key: config[key] for key in ("model_type", "tie_word_embeddings") if key in config
        }
        config = shared | text
    if not isinstance(config.get("model_type"), str):
        what = "has no model_type, so its architecture is unknown"
        fix = "name a transformers model's config.json; diffusion and GGUF models have none"
        raise InputError(Problem(name, what, "a config.json with model_type", fix))
    return config


def _looks_like_hub_id(name: str) -> bool:
    """Whether ``name`` reads as owner/name; a bare name is more often a slip than a Hub id."""
    owner, _, rest = name.partition("/")
    return (
        bool(owner.strip(". ") and rest)
        and not owner.startswith("~")
        and "/" not in rest
        and not rest.endswith(".json")
    )


def _suggestions(name: str) -> tuple[str, str]:
    close = close_bundled_ids(name)
    allowed = "a folder, a config.json, a bundled id, or owner/name on the Hub"
    fix = f"did you mean {' or '.join(close)}?" if close else "check the spelling or the path"
    return allowed, fix


def beyond_trained_length(plan: FineTunePlan, config: dict[str, Any]) -> str | None:
    """Return a warning where a plan's examples are longer than the model was made for."""
    longest = config.get("max_position_embeddings") or config.get("n_positions")
    if not isinstance(longest, int) or plan.seq_len <= longest:
        return None
    return f"The model was made for {longest:,} tokens; {plan.seq_len:,} is beyond that."

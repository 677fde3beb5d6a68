"""What a worker can be asked for, and what it finds, told apart by ``kind``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, RootModel, Tag

from estimator.documents import is_there
from trainer.finetune_results import FineTuneRequest, FineTuneResult
from trainer.results import ProbeRequest, ProbeResult
from trainer.search_results import SearchRequest, SearchResult
from trainer.search_space import typed

Request = ProbeRequest | FineTuneRequest | SearchRequest
Result = ProbeResult | FineTuneResult | SearchResult


def _kind(value: Any) -> str:
    """The kind of a record; those of before there were kinds are probes."""
    found = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return found or "probe"


class RequestFile(RootModel[Any]):
    """``request.json``, whatever was asked for."""

    root: Annotated[
        Annotated[ProbeRequest, Tag("probe")]
        | Annotated[FineTuneRequest, Tag("finetune")]
        | Annotated[SearchRequest, Tag("tune")],
        Discriminator(_kind),
    ]


class ResultFile(RootModel[Any]):
    """``result.json``, whatever was found."""

    root: Annotated[
        Annotated[ProbeResult, Tag("probe")]
        | Annotated[FineTuneResult, Tag("finetune")]
        | Annotated[SearchResult, Tag("tune")],
        Discriminator(_kind),
    ]


def anywhere(request: Request) -> Request:
    """Return a request that means the same in any folder: with the full paths of its files.

    What is no file or folder here stays: an id on the Hub, or of a bundled model. The plan comes to
    name the data that is really used.
    """
    plan = request.plan
    data = plan.data.model_dump() | {"path": _full_path(request.data_path or plan.data.path)}
    plan = plan.changed(model=_full_path(plan.model), data=data)
    changes: dict[str, Any] = {"plan": plan, "data_path": _full_path(request.data_path)}
    if not isinstance(request, ProbeRequest):
        changes["validation_path"] = _full_path(request.validation_path)
    return request.model_copy(update=changes)


def _full_path(name: str | None) -> str | None:
    return str(Path(name).absolute()) if name and is_there(Path(name)) else name


def command_of(request: Request, plan_path: str) -> list[str]:
    """Return the words of the terminal command that asks for the same.

    Args:
        request: What is asked for.
        plan_path: Where its plan can be read.
    """
    words = ["tuneplan", request.kind, plan_path]
    if request.data_path:
        words += ["--data", request.data_path]
    if isinstance(request, ProbeRequest):
        words += ["--steps", str(request.num_steps)]
        words += ["--find-batch"] * request.find_batch
    elif request.validation_path:
        words += ["--validation", request.validation_path]
    if request.device != "auto":
        words += ["--device", request.device]
    if request.memory_limit_gib is not None:
        words += ["--memory-limit", str(request.memory_limit_gib)]
    words += ["--trust-remote-code"] * request.trust_remote_code
    if isinstance(request, FineTuneRequest) and request.push_to_hub:
        words += ["--push-to-hub", request.push_to_hub]
        words += ["--public"] * request.public
    if isinstance(request, SearchRequest):
        words += ["--trials", str(request.num_trials), "--seed", str(request.seed)]
        words += [word for one in request.searched for word in ("--search", typed(one))]
        if request.timeout_hours is not None:
            words += ["--hours", f"{request.timeout_hours:g}"]
    return words

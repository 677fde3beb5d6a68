"""What a fine-tune saved, asked for without torch: where it lies, answers from it, its merge."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from estimator.documents import is_there, read_document
from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError, Problem
from estimator.records import Record
from trainer.example_formats import ExampleFormat
from trainer.launch import WorkerFailed, problems_in, run_worker
from trainer.results import Device
from trainer.runs import find_run

Quantization = Literal["none", "int8", "nf4"]

Answer = TypeVar("Answer", bound=BaseModel)


class GenerateRequest(Record):
    """One prompt for a saved model.

    Attributes:
        format: How the prompt is put to it; None: as its training data was.
        quantization: None loads it as it was trained.
    """

    folder: str
    prompt: str = Field(min_length=1)
    format: ExampleFormat | None = None
    quantization: Quantization | None = None
    max_new_tokens: int = Field(default=256, ge=1, le=100_000)
    device: Device = "auto"


class Generated(Record):
    """What a saved model answered.

    Attributes:
        was_cut: Whether it would have gone on beyond its allowance of tokens.
        format: How the prompt was put to it; chat and instruction as a user's turn.
        seconds: Of writing, without loading.
    """

    prompt: str
    output: str
    num_prompt_tokens: int
    num_new_tokens: int
    was_cut: bool
    format: ExampleFormat
    device: Literal["cpu", "cuda"]
    seconds: float


class MergeRequest(Record):
    """An adapter's folder, and where the merged model goes."""

    folder: str
    output: str


class Merged(Record):
    """A merged model.

    Attributes:
        base: The model that the adapter was merged into.
        dtype: What the weights are stored in.
        trained_on: How the base was quantised while the adapter was trained; the merge took it
            unquantised.
    """

    folder: str
    base: str
    dtype: str
    trained_on: str = "none"
    size_bytes: int


def find_saved(name: str) -> Path:
    """Return the folder of a run's saved model, or of an adapter or model that is named itself.

    Args:
        name: A run's id, its beginning, ``latest``, or a folder (a run's or a model's own).

    Raises:
        InputError: There is no such run or folder, or it holds no model.
    """
    path = Path(name)
    is_path = is_there(path)
    folder = path if is_path else find_run(name).folder
    for candidate in (folder / "model", folder):
        if (candidate / "adapter_config.json").exists() or (candidate / "config.json").exists():
            return candidate.resolve()
    where = str(folder) if is_path else f"run {folder.name}"
    what = "holds no saved model or adapter"
    fix = "name a fine-tune that has finished, or a folder that save_pretrained wrote"
    raise InputError(Problem(where, what, fix=fix))


def read_plan(folder: Path) -> FineTunePlan | None:
    """Return the plan beside a saved model, None where there is none.

    Raises:
        InputError: It is damaged.
    """
    file = folder / "plan.json"
    return parse_plan(read_document(file), name=str(file)) if file.exists() else None


def generate(request: GenerateRequest, on_progress: Callable[[str], None] | None) -> Generated:
    """Return a saved model's answer, made in a process of its own.

    Raises:
        InputError: The model cannot be loaded.
        WorkerFailed: The process broke.
    """
    return _ask("trainer.generate", request, Generated, on_progress)


def merge(request: MergeRequest, on_progress: Callable[[str], None] | None) -> Merged:
    """Merge an adapter into its base, in a process of its own.

    Raises:
        InputError: It cannot be merged, or the output is there already or cannot be written.
        WorkerFailed: The process broke.
    """
    return _ask("trainer.merge", request, Merged, on_progress)


def _ask(
    module: str, request: Record, kind: type[Answer], on_progress: Callable[[str], None] | None
) -> Answer:
    status, answer, log = run_worker(module, request.model_dump_json(), on_progress)
    if status == 0:
        try:
            return kind.model_validate_json(answer)
        except ValidationError as error:
            raise WorkerFailed(f"{module} answered {answer[-200:]!r}", log) from error
    if status == 2 and (problems := problems_in(answer)):
        raise InputError(problems)
    reason = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    raise WorkerFailed(f"{module} {reason}{f': {log[-1].strip()}' if log else ''}", log)


def print_problems(error: InputError) -> None:
    """Write what is wrong with a worker's input to stdout, as who started it reads it."""
    fields = ("where", "what", "allowed", "fix")
    problems: list[dict[str, Any]] = [
        {name: getattr(one, name) for name in fields} for one in error.problems
    ]
    json.dump({"problems": problems}, sys.stdout)


def tell(text: str) -> None:
    """Write a worker's progress to stderr, as who started it reads it."""
    sys.stderr.write(f"progress: {text}\n")
    sys.stderr.flush()

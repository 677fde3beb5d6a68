"""What a fine-tune needs to find here, told apart from torch and before a run is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from estimator.models import resolve_model
from estimator.problems import InputError, Problem, problems_of
from trainer.examples import PROBE_EXAMPLES, open_examples
from trainer.finetune_results import FineTuneRequest
from trainer.not_built import refuse_what_is_not_built
from trainer.pretrained import check_weights
from trainer.probe_inputs import check_limit
from trainer.publish import check_push


def finetune_problems(request: FineTuneRequest) -> list[Problem]:
    """Return what the worker would find wrong with a request, short of building the model."""
    return problems_of(_checks(request))


def _checks(request: FineTuneRequest) -> Iterator[Callable[[], object]]:
    plan = request.plan
    yield lambda: check_data(request)
    yield lambda: refuse_what_is_not_built(plan)
    yield lambda: check_limit(request.memory_limit_gib, request.device)
    if repo_id := request.push_to_hub:
        yield lambda: check_push(repo_id)
    yield lambda: check_weights(resolve_model(plan.model))
    held_out = request.validation_path
    if held_out:
        yield lambda: open_examples(held_out, plan.data.format).check(PROBE_EXAMPLES)


def check_data(request: FineTuneRequest) -> str:
    """Return what to train on.

    Raises:
        InputError: Neither the request nor its plan names any examples.
    """
    path = request.data_path or request.plan.data.path
    if path is None:
        fix = "name a file: --data FILE, or data.path in the plan"
        raise InputError(Problem("--data", "a fine-tune needs examples", fix=fix))
    return path

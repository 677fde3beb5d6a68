"""The Optuna study behind a search: what is tried next, what is given up, what is remembered.

The study lies in the run's folder as ``study.db``, an SQLite file: a transaction is in it whole or
not at all, however the worker dies. Everything that a trial's record says is read from there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from trainer.search_results import Dimension, Parameters, SearchKey, SearchRequest, Trial
from trainer.search_space import as_tried, combinations, own_parameters

STUDY = "study.db"

RANDOM_SHARE = 1 / 3
"""Of the trials: so many are drawn at random before TPE models what was good among them."""
LEAST_RANDOM, MOST_RANDOM = 3, 10

JUDGES = 3
"""Trials that must have been completed before another is given up for being worse than half."""

FIRST_JUDGED = 2
"""The validation from which on a trial may be given up: the first is taken amid the warm-up."""

LEAST_FOR_IMPORTANCE = 8
"""Completed trials below which a share of importance would be noise."""

_READY = "searched"


def open_study(folder: Path, request: SearchRequest, searched: Sequence[Dimension]) -> optuna.Study:
    """Return the study of a search, with everything tried so far; begin it where there is none.

    The plan's own settings, or the nearest, are tried first, so that it shows what the search
    gained. Where only lists are searched, their combinations follow in random order, each once.

    Args:
        folder: The run's.
        request: What is searched for.
        searched: What is varied; what the study began with stays, whatever is given later.
    """
    study = _study(folder)
    if _READY in study.user_attrs:
        return study
    (folder / STUDY).unlink()  # begun, but not to the end: nothing was tried yet
    study = _study(folder)
    own = own_parameters(request.plan, searched)
    finite = combinations(searched)
    if finite is not None:
        random.Random(request.seed).shuffle(finite)
    for parameters in [own, *(one for one in finite or () if one != own)]:
        study.enqueue_trial(_asked(parameters, searched))
    study.set_user_attr(_READY, json.dumps([one.to_document() for one in searched]))
    return study


def _study(folder: Path) -> optuna.Study:
    return optuna.create_study(
        storage=f"sqlite:///{(folder / STUDY).absolute()}",
        study_name="tuneplan",
        direction="minimize",
        pruner=pruner(),
        load_if_exists=True,
    )


def searched_in(study: optuna.Study) -> tuple[Dimension, ...]:
    """Return what a study varies."""
    return tuple(Dimension.model_validate(one) for one in json.loads(study.user_attrs[_READY]))


def pruner() -> MedianPruner:
    """Return what gives trials up: those whose lowest loss is above the median of the others.

    Others are completed trials at the same validation, which has seen the same examples.
    Hyperband would need more trials and validations than a fine-tune has: with 10 trials of 6
    validations its brackets hold two or three trials each, and compare nothing.
    """
    return MedianPruner(n_startup_trials=JUDGES, n_warmup_steps=FIRST_JUDGED)


def next_trial(study: optuna.Study, request: SearchRequest) -> optuna.Trial:
    """Ask for the next trial.

    Each draw has a seed of its own, made of the search's and the trial's number, so that a search
    that was taken up goes on as if it had never been interrupted.
    """
    _seed(study, request, num_begun(study))
    trial = study.ask()
    _draw(trial, searched_in(study))
    return trial


def _seed(study: optuna.Study, request: SearchRequest, number: int) -> None:
    share = round(request.num_trials * RANDOM_SHARE)
    study.sampler = TPESampler(
        seed=request.seed + number, n_startup_trials=min(MOST_RANDOM, max(LEAST_RANDOM, share))
    )


def _draw(trial: optuna.Trial, searched: Sequence[Dimension]) -> None:
    """Draw what is not drawn yet."""
    for one in searched:
        if one.values:
            trial.suggest_categorical(one.key, one.values)
        elif one.key == "epochs":
            trial.suggest_int(one.key, round(one.low), round(one.high))
        else:
            trial.suggest_float(one.key, one.low, one.high, log=True)


def num_begun(study: optuna.Study) -> int:
    """Return how many trials were begun."""
    return sum(one.state != OptunaState.WAITING for one in study.trials)


def most_trials(study: optuna.Study, request: SearchRequest) -> int:
    """Return how many trials there will be at most: no combination is tried twice."""
    finite = combinations(searched_in(study))
    return request.num_trials if finite is None else min(request.num_trials, len(finite))


def left_running(study: optuna.Study, request: SearchRequest) -> list[optuna.Trial]:
    """Return the trials that a worker before this one had begun and not ended."""
    found = []
    for one in study.trials:
        if one.state == OptunaState.RUNNING:
            _seed(study, request, one.number)
            trial = optuna.Trial(study, one._trial_id)
            _draw(trial, searched_in(study))  # it may have been killed amid drawing
            found.append(trial)
    return found


def should_prune(trial: optuna.Trial, validations: Sequence[float]) -> bool:
    """Tell a trial's validation losses so far, and return whether to give it up."""
    known = trial.study.trials[trial.number].intermediate_values
    for index, loss in enumerate(validations, start=1):
        if index not in known:
            trial.report(loss, index)
    return bool(validations) and trial.should_prune()


def tell(
    study: optuna.Study,
    trial: optuna.Trial,
    record: Trial,
    *,
    is_its_own_fault: bool = False,
) -> None:
    """Write down how a trial ended.

    Args:
        study: Whose trial it is.
        trial: As it was asked for.
        record: How it ended.
        is_its_own_fault: A failure that its settings led to (no memory, a loss that is no number):
            the sampler then keeps away from there, as from trials that were given up.
    """
    trial.set_user_attr("state", record.state)
    trial.set_user_attr("reason", record.reason)
    trial.set_user_attr("seconds", record.seconds)
    if record.state == "completed":
        study.tell(trial, record.validation_loss)
    else:
        given_up = record.state == "pruned" or is_its_own_fault
        study.tell(trial, state=OptunaState.PRUNED if given_up else OptunaState.FAIL)


def trials_of(study: optuna.Study) -> tuple[Trial, ...]:
    """Return the trials that have ended, in order."""
    ended = (one for one in study.trials if one.state.is_finished())
    return tuple(_record(one) for one in ended)


def parameters_of(trial: optuna.Trial | FrozenTrial) -> Parameters:
    """Return what a trial tries, rounded as it is tried."""
    return as_tried(trial.params)


def importance(study: optuna.Study) -> dict[SearchKey, float] | None:
    """Return each key's share in what made trials good, None where too few were completed.

    PED-ANOVA (arXiv:2304.10255): how much the better half of the trials crowds together in a key.
    """
    completed = [one for one in study.trials if one.state == OptunaState.COMPLETE]
    varied = {key for key in (completed[0].params if completed else ()) if _varies(completed, key)}
    if len(completed) < LEAST_FOR_IMPORTANCE or len(varied) < 2:
        return None
    found = get_param_importances(
        study, evaluator=PedAnovaImportanceEvaluator(), params=sorted(varied)
    )
    return {cast("SearchKey", key): share for key, share in found.items()}


def _varies(trials: Sequence[FrozenTrial], key: str) -> bool:
    return len({one.params[key] for one in trials}) > 1


def _record(trial: FrozenTrial) -> Trial:
    steps = sorted(trial.intermediate_values)
    validations = tuple(trial.intermediate_values[step] for step in steps)
    about: dict[str, Any] = trial.user_attrs
    return Trial(
        number=trial.number + 1,
        parameters=parameters_of(trial),
        state=about["state"],
        validation_loss=min(validations, default=None),
        validations=validations,
        run=about.get("run"),
        reason=about["reason"],
        seconds=about["seconds"],
    )


def _asked(parameters: Parameters, searched: Sequence[Dimension]) -> dict[str, float | int]:
    """Parameters in the types that their distributions draw."""
    lists = {one.key for one in searched if one.values}
    return {
        key: value if key in lists or key == "learning_rate" else round(value)
        for key, value in parameters.items()
    }

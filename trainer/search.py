"""A search for better settings: fine-tunes of one plan, one after another, each a run of its own.

This worker never imports torch and holds no device: its trials do, each in its own process.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from estimator.problems import InputError, Problem
from trainer import ending, launch, search_study, search_trials, search_verdict
from trainer.evaluation_results import Evaluation
from trainer.finetune_results import FineTuneResult
from trainer.run_status import RunStatus
from trainer.run_writer import RunWriter
from trainer.runs import Run
from trainer.search_plan import differences, keep_best, write_best
from trainer.search_results import (
    ALL_DONE,
    STOPPED,
    STOPPED_BY_HAND,
    Dimension,
    SearchRequest,
    SearchResult,
    Trial,
)
from trainer.search_space import plan_with
from trainer.search_trials import Ending

if TYPE_CHECKING:
    import optuna


class _Stopped(Exception):
    """The search was asked to stop; the trial that was running can be taken up again."""


def run_search(request: SearchRequest, run: Run, writer: RunWriter) -> SearchResult:
    """Try settings until all trials are done, going on where a worker before left off.

    Args:
        request: What is searched for.
        run: The search's own.
        writer: Is told of progress, and of each result as it stands.

    Raises:
        InputError: No trial can be run: the data or the plan are wrong, or nothing fits.
    """
    searched, notes = _that_fits(request)
    study = search_study.open_study(run.folder, request, searched)
    search = _Search(request, run, writer, study, notes)
    try:
        ended = search.go()
    except _Stopped:
        ended = STOPPED
    except ending.Ended:
        ended = STOPPED
        if search.current:
            search.current.request_stop()
    return search.result(ended, is_over=True)


def _that_fits(request: SearchRequest) -> tuple[tuple[Dimension, ...], list[str]]:
    """What is searched, less the ranks that would not fit the device, with a note for each.

    Raises:
        InputError: Nothing fits.
    """
    capacity = search_trials.capacity_bytes(request)
    kept: list[Dimension] = []
    notes: list[str] = []
    for dimension in request.searched:
        if dimension.key != "adapter.r":
            kept.append(dimension)
            continue
        values = []
        for value in dimension.values:
            plan = plan_with(request.plan, {"adapter.r": value})
            if why := search_trials.too_large(plan, capacity):
                notes.append(f"adapter.r={value:g} is not tried: {why}.")
            else:
                values.append(value)
        kept.append(dimension.model_copy(update={"values": tuple(values)}))
    ranks = [one for one in kept if one.key == "adapter.r"]
    why = "" if ranks else search_trials.too_large(request.plan, capacity)
    if why or any(not one.values for one in ranks):
        fix = "see `tuneplan fit PLAN` for changes that make it fit"
        raise InputError(Problem("tune", why or " ".join(notes), fix=fix))
    return tuple(kept), notes


@dataclass(slots=True)
class _Search:
    """A search on its way."""

    request: SearchRequest
    run: Run
    writer: RunWriter
    study: optuna.Study
    notes: list[str]
    evaluations: dict[int, Evaluation] = field(default_factory=dict)
    num_validation: int | None = None
    best: Trial | None = None
    current: Run | None = None

    def go(self) -> str:
        """Run trials until there are no more, and return why."""
        self._look_back()
        for trial in search_study.left_running(self.study, self.request):
            self._see_through(trial, is_new=False)
        while search_study.num_begun(self.study) < self.num_trials:
            if self._time_is_up():
                return f"the {self.request.timeout_hours:g} hours for it are over"
            if self.writer.stop_requested():
                raise _Stopped
            self._see_through(search_study.next_trial(self.study, self.request), is_new=True)
        return ALL_DONE

    @property
    def num_trials(self) -> int:
        """How many trials there will be."""
        return search_study.most_trials(self.study, self.request)

    def _look_back(self) -> None:
        """Learn from the folders of trials that an earlier worker saw through."""
        for trial in search_study.trials_of(self.study):
            folder = self.run.folder.parent / trial.run if trial.run else None
            if folder and folder.exists():
                result = Run(folder).result()
                self._learn(trial, result if isinstance(result, FineTuneResult) else None)
            else:
                self._learn(trial, None)

    def _time_is_up(self) -> bool:
        limit = self.request.timeout_hours
        done = search_study.trials_of(self.study)
        return limit is not None and sum(one.seconds for one in done) >= 3600 * limit

    def _see_through(self, trial: optuna.Trial, *, is_new: bool) -> None:
        number = trial.number + 1
        self.current = run = self._run_of(trial, number, is_new=is_new)
        trial.set_user_attr("run", run.id)
        ended = search_trials.watch(
            run,
            on_change=lambda status: self._tell(number, status),
            should_prune=lambda losses: search_study.should_prune(trial, losses),
            should_stop=self.writer.stop_requested,
            on_prune=lambda: trial.set_user_attr("pruned", True),
        )
        state = ended.status.state
        was_pruned = trial.user_attrs.get("pruned", False)
        if state == "stopped" and not was_pruned and self.writer.stop_requested():
            raise _Stopped
        if ended.status.input_is_wrong:
            raise InputError(Problem(f"trial {number} (run {run.id})", ended.status.reason))
        if state == "finished" and not ended.validations:
            what = "no example was held out, so trials cannot be compared"
            fix = "give more examples, or name a file: --validation FILE"
            raise InputError(Problem(f"trial {number} (run {run.id})", what, fix=fix))
        search_study.should_prune(trial, ended.validations)  # the last ones, too, are kept
        record = _record(number, trial, run, ended, was_pruned=was_pruned)
        if was_pruned and (ended.took_all_steps or _loss(record) < _loss(self.best)):
            # It went on after it was given up, until the end of its step: for once to good effect.
            record = record.model_copy(update={"state": "completed", "reason": ""})
        fault = state == "out_of_memory" or ended.diverged
        search_study.tell(self.study, trial, record, is_its_own_fault=fault)
        self._learn(record, ended.result)
        self.writer.result(self.result(""))

    def _run_of(self, trial: optuna.Trial, number: int, *, is_new: bool) -> Run:
        """A trial's run: begun now, or found as a worker before left it, and taken up again."""
        run = None if is_new else search_trials.find(self.run, number)
        if run is None:
            plan = plan_with(self.request.plan, search_study.parameters_of(trial))
            return search_trials.start(self.request, plan, self.run, number)
        status = run.status()
        was_cut_off = status.state == "failed" and not search_trials.ending(run, status).diverged
        was_stopped = status.state == "stopped" and not trial.user_attrs.get("pruned", False)
        return launch.resume(run) if was_cut_off or was_stopped else run

    def _learn(self, trial: Trial, result: FineTuneResult | None) -> None:
        """Take in a trial that has ended; of all models only the best one's is kept."""
        if result:
            self.num_validation = result.data.num_validation
            if result.comparison:
                self.evaluations[trial.number] = result.comparison.after
        run = Run(self.run.folder.parent / trial.run) if trial.run else None
        if run:
            search_trials.keep_before(run, self.run)
        beaten = run
        if trial.state == "completed" and _loss(trial) < _loss(self.best):
            before, self.best = self.best, trial
            beaten = Run(self.run.folder.parent / before.run) if before and before.run else None
            keep_best(self.run.folder, plan_with(self.request.plan, trial.parameters))
        if beaten:
            search_trials.delete_large(beaten)

    def _tell(self, number: int, status: RunStatus) -> None:
        done = search_study.trials_of(self.study)
        at = re.split("[,:]", status.activity)[0] if status.state == "running" else status.activity
        parts = [f"trial {number} of {self.num_trials}: {at}"]
        if self.best:
            parts.append(f"best {_loss(self.best):.4g} (trial {self.best.number})")
        if done:
            each = statistics.median(one.seconds for one in done)
            left = each * (self.num_trials - len(done)) - min(status.seconds, each)
            minutes = math.ceil(left / 60)
            parts.append(f"about {minutes} min left" if minutes > 1 else "under a minute left")
        text = "; ".join(parts)
        self.writer.status(step=len(done), num_steps=self.num_trials, activity=text)

    def result(self, ended: str, *, is_over: bool = False) -> SearchResult:
        """Return what was found so far; once it is over, with the best plan where it is wanted."""
        trials = search_study.trials_of(self.study)
        best_plan = plan_with(self.request.plan, self.best.parameters) if self.best else None
        notes = list(self.notes)
        if is_over and best_plan and ended != STOPPED and self.request.write_to:
            try:
                notes.append(write_best(self.request, best_plan))
            except InputError as error:
                notes.append(f"The best plan is in {self.run.folder} alone: {error}")
        found = SearchResult(
            plan=self.request.plan,
            searched=search_study.searched_in(self.study),
            num_trials=self.request.num_trials,
            trials=trials,
            best=self.best.number if self.best else None,
            best_plan=best_plan,
            changes=differences(self.request.plan, best_plan) if best_plan else {},
            importance=search_study.importance(self.study),
            num_validation=self.num_validation,
            notes=(*notes, *_fewer(self.request.num_trials, self.num_trials)),
            ended=ended,
            stopped_early=ended == STOPPED,
            seconds=sum(one.seconds for one in trials),
        )
        said = search_verdict.sentence(found, self.evaluations)
        return found.model_copy(update={"sentence": said})


def _fewer(asked: int, possible: int) -> Sequence[str]:
    if possible == asked:
        return ()
    return (f"There are {possible} combinations of what is searched, so no more trials than that.",)


def _loss(trial: Trial | None) -> float:
    return float("inf") if trial is None or trial.validation_loss is None else trial.validation_loss


def _record(
    number: int, trial: optuna.Trial, run: Run, ended: Ending, *, was_pruned: bool
) -> Trial:
    """What to keep of a trial that has ended."""
    status = ended.status
    losses = ended.validations
    record = Trial(
        number=number,
        parameters=search_study.parameters_of(trial),
        state="completed",
        validation_loss=min(losses, default=None),
        validations=tuple(losses),
        run=run.id,
        seconds=status.seconds,
    )
    if status.state == "out_of_memory":
        change = {"state": "out_of_memory", "reason": status.reason}
    elif status.state == "stopped":
        worse = f"above the median of the others after {len(losses)} validations"
        change = {"state": "pruned", "reason": worse if was_pruned else STOPPED_BY_HAND}
    elif status.state == "failed":
        change = {"state": "failed", "reason": status.reason}
    else:
        change = {}
    return record.model_copy(update=change)

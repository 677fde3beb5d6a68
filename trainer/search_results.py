"""What a search for better settings is asked for and what it finds: readable without Optuna."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from estimator.plan import FineTunePlan
from estimator.records import Record
from trainer.finetune_results import FineTuneRequest
from trainer.results import Device

SearchKey = Literal["learning_rate", "adapter.r", "epochs"]
TrialState = Literal["completed", "pruned", "failed", "out_of_memory"]
Parameters = dict[SearchKey, float]

ALL_DONE = "all trials done"
STOPPED = "stopped on request"
STOPPED_BY_HAND = "stopped by hand"
"""A trial that somebody stopped while its search went on."""


class Dimension(Record):
    """What one key may be: one of ``values``, or where there are none from ``low`` to ``high``.

    A range of learning rates is drawn from evenly in its logarithm, one of epochs in whole numbers.
    """

    key: SearchKey
    values: tuple[float, ...] = ()
    low: float = 0
    high: float = 0


class SearchRequest(Record):
    """A search over fine-tunes of one plan, each of them a run of its own.

    Attributes:
        plan: What is varied.
        searched: What is varied of it, and how far.
        seed: Of what is tried; the same one tries the same.
        timeout_hours: No trial is begun after so many hours of trials.
        memory_limit_gib: As in a probe, for every trial.
        write_to: A file for the best plan, beside the one in the run's folder.
        in_place: ``write_to`` is the plan's own file: it is kept as ``.bak``, and changed only
            where the best plan differs.
    """

    kind: Literal["tune"] = "tune"
    plan: FineTunePlan
    searched: tuple[Dimension, ...] = Field(min_length=1)
    num_trials: int = Field(default=10, ge=1, le=10_000)
    data_path: str | None = None
    validation_path: str | None = None
    device: Device = "auto"
    seed: int = Field(default=42, ge=0, le=2**31)
    timeout_hours: float | None = Field(default=None, gt=0)
    memory_limit_gib: float | None = Field(default=None, gt=0)
    trust_remote_code: bool = False
    write_to: str | None = None
    in_place: bool = False

    def finetune(
        self, plan: FineTunePlan, *, search: str | None = None, trial: int | None = None
    ) -> FineTuneRequest:
        """Return the fine-tune that tries a plan, as a trial of a search or by itself."""
        return FineTuneRequest(
            plan=plan,
            data_path=self.data_path,
            validation_path=self.validation_path,
            device=self.device,
            memory_limit_gib=self.memory_limit_gib,
            trust_remote_code=self.trust_remote_code,
            search=search,
            trial=trial,
        )


class Trial(Record):
    """One fine-tune of a search.

    Attributes:
        number: From 1.
        validation_loss: The lowest that it reached, in nats per learned token; None where it was
            never validated.
        validations: All of them, in order.
        run: Its run's id; None where it never began.
        reason: Why it was not completed.
        seconds: From its start to its end.
    """

    number: int
    parameters: Parameters
    state: TrialState
    validation_loss: float | None = None
    validations: tuple[float, ...] = ()
    run: str | None = None
    reason: str = ""
    seconds: float = 0.0


class SearchResult(Record):
    """What a search has found (so far). None is what is not known.

    Attributes:
        searched: What was varied in the end: without what would not fit the device.
        num_trials: How many trials were asked for; there may be fewer combinations.
        trials: In the order in which they ran.
        best: The number of the completed trial with the lowest validation loss.
        best_plan: Its plan.
        changes: Dotted keys in which that differs from the given plan, each with both values.
        importance: The share of each key in what made trials good (PED-ANOVA); None where too
            few were completed to say.
        num_validation: Examples held out.
        sentence: What came of it and how sure that is.
        ended: Why there were no more trials.
    """

    kind: Literal["tune"] = "tune"
    plan: FineTunePlan
    searched: tuple[Dimension, ...]
    num_trials: int
    trials: tuple[Trial, ...] = ()
    best: int | None = None
    best_plan: FineTunePlan | None = None
    changes: dict[str, tuple[Any, Any]] = Field(default_factory=dict)
    importance: dict[SearchKey, float] | None = None
    num_validation: int | None = None
    sentence: str = ""
    notes: tuple[str, ...] = ()
    ended: str = ""
    stopped_early: bool = False
    seconds: float = 0.0

    def best_trial(self) -> Trial | None:
        """Return the trial that ``best`` names."""
        return next((one for one in self.trials if one.number == self.best), None)

    def ranked(self) -> list[Trial]:
        """Return the trials, best first; those that were not completed come after."""
        unknown = float("inf")
        return sorted(
            self.trials,
            key=lambda one: (
                one.state != "completed",
                unknown if one.validation_loss is None else one.validation_loss,
            ),
        )

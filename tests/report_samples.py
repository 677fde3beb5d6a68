"""Runs as reports hold them, made by hand: what was measured is as good as given."""

from __future__ import annotations

from datetime import date

from estimator.compare import compare_methods
from estimator.estimate import MemoryEstimate
from estimator.plan import FineTunePlan
from reports.measured_runs import FineTuneRun, ProbeRun, SearchRun
from trainer.data_summary import DataSummary
from trainer.evaluation_results import Comparison, Evaluation, HistoryPoint, Sample
from trainer.finetune_results import FineTuneResult, Validation
from trainer.results import Change, OutOfMemory, ProbeResult
from trainer.search_results import Dimension, SearchResult, Trial

DAY = date(2026, 11, 22)


def measured_like(estimate: MemoryEstimate, factor: float) -> MemoryEstimate:
    """A measurement that lies off an estimate by a factor."""
    return estimate.model_copy(
        update={
            "basis": "measured",
            "components_bytes": dict.fromkeys(estimate.components_bytes),
            "peak_allocated_bytes": round(estimate.peak_allocated_bytes * factor),
        }
    )


def probe_runs(plan: FineTunePlan, data: str = "a sample") -> list[ProbeRun]:
    """A full fine-tune that was measured and a LoRA that ran out of memory."""
    estimates = (one.model_copy(update={"seconds": 0.1}) for one in compare_methods(plan))
    full, lora, _ = estimates
    common = {"device": "cuda", "weights": "random", "data": data, "num_steps": 6}
    measured = ProbeResult(
        plan=full.plan,
        device_name="A Measured GPU",
        dry_run=None,
        formula=full,
        measured=measured_like(full, 1.02),
        first_loss=5.125,
        last_loss=4.5,
        step_seconds_median=0.5,
        tokens_per_second=1024,
        software={"torch": "2.13.0"},
        **common,
    )
    lacking = ProbeResult(
        plan=lora.plan,
        device_name="A Small GPU",
        dry_run=None,
        formula=lora,
        out_of_memory=OutOfMemory(
            phase="forward",
            requested_bytes=2**30,
            allocated_bytes=7 * 2**30,
            capacity_bytes=8 * 2**30,
            message="out of memory",
            changes=(Change(override="seq_len=256", peak_allocated_bytes=6 * 2**30),),
        ),
        **common,
    )
    return [
        ProbeRun(run="20261122-full", state="finished", ended_on=DAY, result=measured),
        ProbeRun(run="20261122-lora", state="out_of_memory", ended_on=DAY, result=lacking),
    ]


def finetune_run(plan: FineTunePlan, text: str = "plain") -> FineTuneRun:
    """A fine-tune that learned something; ``text`` is in its data's name and its samples."""
    data = DataSummary(
        name=text,
        format="chat",
        template=None,
        num_examples=50,
        num_train=45,
        num_validation=5,
        num_train_rows=45,
        num_validation_rows=5,
        num_tokens=900,
        num_learned_tokens=400,
        num_truncated=0,
        num_tokens_cut=0,
        left_out={},
        longest_example_tokens=40,
        longest_example="line 7",
        fingerprint="0" * 64,
    )
    sample = Sample(
        prompt=text, reference=text, output=text, exact=False, rouge_l=0.5, exact_strict=False
    )
    before = Evaluation(validation_loss=2.0, samples=(sample,), seconds=1, seed=0)
    after = Evaluation(validation_loss=1.5, samples=(sample,), seconds=1, seed=0)
    result = FineTuneResult(
        plan=plan,
        device="cpu",
        device_name="CPU",
        data=data,
        learning_rate=1e-3,
        total_steps=3,
        num_steps=3,
        ended="all steps taken",
        first_loss=2.5,
        last_loss=1.25,
        validations=(Validation(step=2, epoch=1, loss=1.75),),
        comparison=Comparison(
            before=before,
            after=after,
            verdict="learned",
            sentence="It learned. The loss fell from 2 to 1.5.",
            validation_change=None,
            general_change=None,
        ),
    )
    losses = (
        HistoryPoint(step=1, training_loss=2.5),
        HistoryPoint(step=2, training_loss=2.0, validation_loss=1.75),
        HistoryPoint(step=3, training_loss=1.25),
    )
    return FineTuneRun(
        run="20261122-finetune", state="finished", ended_on=DAY, result=result, losses=losses
    )


def search_run(plan: FineTunePlan, reason: str = "the worker is gone") -> SearchRun:
    """A search of two trials, of which one failed."""
    trials = (
        Trial(number=1, parameters={"learning_rate": 1e-3}, state="completed", validation_loss=1.5),
        Trial(number=2, parameters={"learning_rate": 1e-1}, state="failed", reason=reason),
    )
    result = SearchResult(
        plan=plan,
        searched=(Dimension(key="learning_rate", low=1e-4, high=1e-1),),
        num_trials=2,
        trials=trials,
        best=1,
        best_plan=plan,
        changes={"schedule.learning_rate": (None, 1e-3)},
        sentence="Trial 1 is best, with a validation loss of 1.5.",
        ended="all trials done",
    )
    return SearchRun(run="20261122-search", state="finished", ended_on=DAY, result=result)

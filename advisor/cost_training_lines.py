"""The line items of training: labels, fine-tunes here or at a provider's, pre-training."""

from __future__ import annotations

from advisor.cost_lines import Known, Lines
from estimator.cost import MILLION, SECONDS_PER_HOUR, Number, training_hours
from estimator.cost_ledger import Line

_MONTHS = 12
PRETRAINING_GPUS, NEW_MODEL_GPUS = 8, 64
"""What the days of training are told for: one machine, and a small cluster."""


def training_run_hours(v: Known) -> Number:
    """Return the GPU hours of one fine-tune: its tokens by the speed of training."""
    tokens = v["training_examples"] * v["tokens_per_example"] * v["epochs"]
    return tokens / v["training_tokens_per_second"] / SECONDS_PER_HOUR


def _labels(v: Known) -> Number:
    return v["labels_needed"] * v["label"]


def _judging(v: Known, extras: tuple[str, ...]) -> Number:
    """What one pass over the test items costs, judged by the API model."""
    read = sum((v[one] for one in extras), v["input_tokens"] + v["output_tokens"])
    written = v["output_tokens"] * v["api_output_mtok"]
    return v["evaluation_items"] * (read * v["api_input_mtok"] + written) / MILLION


def _relabelling(v: Known) -> Number:
    return v["training_examples"] * v["relabelled_share"] * v["label"]


def labels() -> Lines:
    """Return examples that have to be labelled first."""
    return (
        Line(
            "labels",
            "Labels",
            "one_time",
            "examples still to be labelled x price of a label",
            _labels,
        ),
        Line(
            "label_days",
            "Labelling",
            "days",
            "examples still to be labelled / labels a day",
            lambda v: v["labels_needed"] / v["labels_per_day"],
        ),
    )


def training(*extras: str, hosted: bool = False) -> Lines:
    """Return fine-tunes until one is good, their evaluation, and those that keep it up to date.

    Args:
        extras: Inputs whose tokens stand in every prompt, and are read by the judge as well.
        hosted: Whether a provider trains.
    """

    def run(v: Known) -> Number:
        if not hosted:
            return training_run_hours(v) * v["training_gpu_hour"]
        tokens = v["training_examples"] * v["tokens_per_example"] * v["epochs"]
        return tokens * v["hosted_training_mtok"] / MILLION

    read = ("prompt", *(one.replace("_", " ") for one in extras), "answer")
    words = (
        "examples x tokens x epochs x price of a training token"
        if hosted
        else "examples x tokens x epochs / training speed x price of an hour"
    )
    return (
        Line(
            "training",
            "Fine-tunes until one is good",
            "one_time",
            f"trials x ({words})",
            lambda v: v["trials"] * run(v),
        ),
        Line(
            "evaluation_runs",
            "Judging each of them on the test items",
            "one_time",
            f"trials x test items x (({' + '.join(read)}) x input price + answer x output price) "
            "/ 1M",
            lambda v: v["trials"] * _judging(v, extras),
        ),
        Line(
            "upkeep",
            "Fine-tunes that keep it up to date",
            "monthly",
            f"fine-tunes a year / 12 x ({words} + examples x share labelled anew x price of a "
            "label)",
            lambda v: v["retrainings_per_year"] / _MONTHS * (run(v) + _relabelling(v)),
        ),
    )


def training_days() -> Lines:
    """Return how long one fine-tune after another takes on the GPU."""
    return (
        Line(
            "training_days",
            "Fine-tuning",
            "days",
            "trials x hours of a fine-tune / 24",
            lambda v: v["trials"] * training_run_hours(v) / 24,
        ),
    )


def pretraining(*, new: bool) -> Lines:
    """Return training on plain text: of a model that exists, or of a new one."""

    num_gpus = NEW_MODEL_GPUS if new else PRETRAINING_GPUS

    def hours(v: Known) -> Number:
        if new:
            parameters = v["new_model_parameters"]
            tokens = parameters * v["tokens_per_parameter"] * v["new_model_runs"]
        else:
            parameters = v["pretrained_parameters"]
            tokens = v["pretraining_tokens"] * v["pretraining_runs"]
        return training_hours(parameters, tokens, 6, v["pretraining_flops"], v["pretraining_mfu"])

    words = "parameters x tokens for each of them x runs" if new else "tokens x runs"
    return (
        Line(
            "pretraining",
            "Training a new model" if new else "Continued pre-training",
            "one_time",
            f"{words} x 6 x parameters / (peak x MFU) x price of an hour",
            lambda v: hours(v) * v["pretraining_gpu_hour"],
        ),
        Line(
            "pretraining_days",
            f"Training on {num_gpus} GPUs",
            "days",
            f"GPU hours / {num_gpus} / 24",
            lambda v: hours(v) / num_gpus / 24,
        ),
    )

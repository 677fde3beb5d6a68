"""The inputs of a cost that a scenario's workload and answers give."""

from __future__ import annotations

from decimal import Decimal

from advisor.answers import Answers
from advisor.input_book import InputBook, exact
from advisor.scenario import Scenario
from advisor.workload import Workload

_NO_WORKLOAD = "the scenario has no workload: add requests_per_month, input_tokens, output_tokens"
_ASSUMED = (
    "hours_per_day",
    "labels_per_day",
    "least_cached_tokens",
    "cache_lifetime_seconds",
    "utilisation",
    "memory_share",
    "bandwidth_share",
    "compute_share",
    "max_sequences",
    "first_token_overhead",
    "four_bit_bytes",
    "relabelled_share",
    "pretraining_mfu",
    "pretraining_runs",
    "tokens_per_parameter",
    "new_model_runs",
    "work_prompt",
    "work_few_shot",
    "work_long_context",
    "work_rag",
    "work_open_model",
    "work_finetune",
    "work_hosted",
    "work_rag_finetune",
    "work_pretraining",
    "work_new_model",
)
_GIVEN_OR_ASSUMED = (
    "few_shot_tokens",
    "retrieved_tokens",
    "cacheable_share",
    "cache_hit_share",
    "evaluation_items",
    "trials",
    "retrainings_per_year",
)


def add_workload(book: InputBook, scenario: Scenario) -> None:
    """Write down requests, tokens, documents, labels and people's work."""
    _add_traffic(book, scenario.workload)
    workload, answers = scenario.workload, scenario.answers
    for name in _ASSUMED:
        book.assume(name)
    for name in _GIVEN_OR_ASSUMED:
        book.assume(name, getattr(workload, name) if workload else None, answers)
    book.assume("corpus_change_per_month", None, answers)
    _add_corpus(book, workload, answers)
    _add_labels(book, workload, answers)


def _add_traffic(book: InputBook, workload: Workload | None) -> None:
    names = ("requests_per_month", "input_tokens", "output_tokens", "tuned_input_tokens")
    if workload is None:
        book.miss(_NO_WORKLOAD, *names)
        return
    share = exact(workload.uncertainty_percent) / 100
    tuned = workload.tuned_input_tokens
    given = {
        "requests_per_month": ("requests a month", "requests", workload.requests_per_month),
        "input_tokens": ("the prompt, without what is retrieved", "tokens", workload.input_tokens),
        "output_tokens": ("the answer", "tokens", workload.output_tokens),
        "tuned_input_tokens": (
            "the prompt of a tuned model",
            "tokens",
            workload.input_tokens if tuned is None else tuned,
        ),
    }
    for name, (label, unit, value) in given.items():
        spread = (value * (1 - share), Decimal(value), value * (1 + share))
        source = (
            "workload.input_tokens" if name == names[3] and tuned is None else f"workload.{name}"
        )
        book.add(name, label, unit, spread, "scenario", source)


def _add_corpus(book: InputBook, workload: Workload | None, answers: Answers) -> None:
    label, unit = "all documents", "tokens"
    if workload and workload.corpus_tokens is not None:
        source = "workload.corpus_tokens"
        book.add("corpus_tokens", label, unit, workload.corpus_tokens, "scenario", source)
    elif answers.get("corpus") == "none":
        book.miss("there are no documents (answers: corpus none)", "corpus_tokens")
    elif not book.answer("corpus_tokens", label, unit, answers):
        reason = "how large the documents are is not said (workload.corpus_tokens)"
        book.miss(reason, "corpus_tokens")


def _add_labels(book: InputBook, workload: Workload | None, answers: Answers) -> None:
    label, unit = "examples still to be labelled", "examples"
    if workload and workload.labels_needed is not None:
        source = "workload.labels_needed"
        book.add("labels_needed", label, unit, workload.labels_needed, "scenario", source)
    elif not book.answer("labels_needed", label, unit, answers):
        source = "Azure, Fine-tuning overview: 50 to 100 to try, 500 or more for production"
        book.add("labels_needed", label, unit, (50, 500, 1000), "assumed", source)

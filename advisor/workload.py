"""What a system has to serve, and what its costs depend on beyond that."""

from __future__ import annotations

from pydantic import Field, model_validator

from estimator.problems import InputError, Problem
from estimator.records import Record


class Workload(Record):
    """What the system has to serve.

    Everything after ``growth_percent_per_month`` only matters to ``tuneplan cost``. What is left
    out is taken from the scenario's plan or answers, or assumed; the result says which.

    Attributes:
        uncertainty_percent: How far requests and tokens may lie from what is written here.
        tuned_input_tokens: The prompt of a tuned model, where it needs fewer instructions.
        few_shot_tokens: Worked examples in the prompt.
        corpus_tokens: All documents that answers may rest on.
        retrieved_tokens: What retrieval adds to a prompt.
        cacheable_share: The share of the prompt that stays the same from request to request.
        cache_hit_share: The share of requests that find it in the provider's cache.
        labels_needed: Examples that still have to be labelled.
        label_usd_low: The least that one label costs; ``prices.label`` gives a single price.
        label_usd_high: The most.
        trials: Fine-tunes until one is good.
        retrainings_per_year: Fine-tunes a year to keep up.
        evaluation_items: Test items that have to be made.
        pretraining_tokens: Text for continued pre-training.
        new_model_parameters: Size of a model made from scratch.
        api_model: An API model, as genai-prices calls it.
        in_batches: Whether requests can wait for a batch, which providers price lower.
        gpu: The GPU that serves, a bundled one; the plan's where left out.
        serving_model: The model that is served; the plan's where left out.
        hosted_provider: Who fine-tunes; the cheapest that can where left out.
        success_usd: What a right answer is worth.
        failure_usd: What a wrong one costs.
    """

    requests_per_month: int = Field(ge=0, le=10**12)
    input_tokens: int = Field(ge=0, le=10**8, description="per request, without retrieved text")
    output_tokens: int = Field(ge=0, le=10**7, description="per request")
    growth_percent_per_month: float = Field(0.0, ge=-100, le=1000)
    uncertainty_percent: float = Field(20.0, ge=0, le=100)
    tuned_input_tokens: int | None = Field(None, ge=0, le=10**8)
    few_shot_tokens: int | None = Field(None, ge=0, le=10**7)
    corpus_tokens: int | None = Field(None, ge=0, le=10**13)
    retrieved_tokens: int | None = Field(None, ge=0, le=10**7)
    cacheable_share: float | None = Field(None, ge=0, le=1)
    cache_hit_share: float | None = Field(None, ge=0, le=1)
    labels_needed: int | None = Field(None, ge=0, le=10**9)
    label_usd_low: float | None = Field(None, ge=0, le=10**6)
    label_usd_high: float | None = Field(None, ge=0, le=10**6)
    trials: int | None = Field(None, ge=0, le=10**6)
    retrainings_per_year: float | None = Field(None, ge=0, le=10**4)
    evaluation_items: int | None = Field(None, ge=0, le=10**9)
    pretraining_tokens: int | None = Field(None, ge=0, le=10**15)
    new_model_parameters: int | None = Field(None, ge=1, le=10**14)
    api_model: str | None = None
    in_batches: bool = False
    gpu: str | None = None
    serving_model: str | None = None
    hosted_provider: str | None = None
    success_usd: float | None = Field(None, ge=0, le=10**12)
    failure_usd: float | None = Field(None, ge=0, le=10**12)

    @model_validator(mode="after")
    def _check(self) -> Workload:
        low, high = self.label_usd_low, self.label_usd_high
        problems = []
        if (low is None) != (high is None):
            where = "label_usd_high" if high is None else "label_usd_low"
            problems.append(
                Problem(f"workload.{where}", "is missing beside its other end", fix=f"add {where}:")
            )
        elif low is not None and high is not None and low > high:
            what = f"{low!r} is more than label_usd_high"
            problems.append(Problem("workload.label_usd_low", what, fix="change one of them"))
        if (self.success_usd is None) != (self.failure_usd is None):
            where = "failure_usd" if self.failure_usd is None else "success_usd"
            what = "is missing: both are needed to tell which accuracy pays"
            problems.append(Problem(f"workload.{where}", what, fix=f"add {where}:"))
        elif self.success_usd == 0 and self.failure_usd == 0:
            what = "0, like failure_usd: then no accuracy pays more than another"
            problems.append(
                Problem("workload.success_usd", what, fix="give at least one of them a value")
            )
        if problems:
            raise InputError(problems)
        return self

"""What a fine-tune starts from: its model, its tokens, and who looks on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from estimator.estimate import Phase
from estimator.models import ResolvedModel, resolve_model
from estimator.plan import FineTunePlan, Schedule
from estimator.problems import InputError, Problem
from trainer.build import Training, build_training, prepare
from trainer.data import collate
from trainer.example_formats import Example
from trainer.examples import ExampleSource, content_digest, open_examples
from trainer.finetune_inputs import check_data
from trainer.finetune_results import FineTuneRequest
from trainer.kept_inputs import check_same, keep, model_fingerprint
from trainer.pretrained import find_weights
from trainer.remote_code import runs_code, warning
from trainer.skeleton import transformers_config
from trainer.split import Split
from trainer.tokenized import TokenizedData, tokenize_data
from trainer.tokens import encoder_of
from trainer.untyped import transformers
from trainer.weights import load_pretrained

NUM_REFERENCES = 20
"""Held-out examples whose answers are written out before and after, for people to read."""


@dataclass(slots=True)
class Onlooker:
    """Who looks on while a fine-tune runs, and may ask it to stop."""

    on_activity: Callable[[str], None]
    on_row: Callable[[dict[str, Any]], None]
    on_num_steps: Callable[[int], None]
    should_stop: Callable[[], bool]


@dataclass(slots=True)
class Job:
    """One fine-tune on its way: everything that its stages share.

    Attributes:
        references: Held-out examples that are written out before and after.
        notes: What a person should know of how it went.
        phase: Of the step that is being taken; "load" before the first.
    """

    request: FineTuneRequest
    folder: Path
    device: torch.device
    onlooker: Onlooker
    facts: ResolvedModel
    weights: Path
    tokenizer: Any
    data: TokenizedData
    references: list[Example]
    notes: list[str] = field(default_factory=list)
    phase: Phase = "load"

    @property
    def plan(self) -> FineTunePlan:
        """What is trained, and how."""
        return self.request.plan

    def collate(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        """Return rows as a batch, no longer than its longest row."""
        return collate(rows, self.plan, self.tokenizer, full_length=False)


def prepare_job(
    request: FineTuneRequest, folder: Path, device: torch.device, onlooker: Onlooker
) -> Job:
    """Find weights, tokenizer and examples, and turn examples into tokens.

    Raises:
        InputError: Something of it is missing or cannot be used.
    """
    plan = request.plan
    facts = resolve_model(plan.model)
    trusted = request.trust_remote_code
    transformers_config(facts.config, plan.model, trust_remote_code=trusted)  # or says why not
    weights = find_weights(plan.model, facts, onlooker.on_activity)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        weights, local_files_only=True, trust_remote_code=trusted
    )
    onlooker.on_activity("reading the data")
    source = open_examples(check_data(request), plan.data.format)
    held_out = None
    if request.validation_path:
        held_out = open_examples(request.validation_path, plan.data.format)
    inputs = _fingerprints(plan, weights, tokenizer, source, held_out)
    check_same(folder, inputs)
    data = tokenize_data(source, tokenizer, plan, folder / "tokens", validation=held_out)
    keep(folder, inputs)
    notes = [warning(plan.model)] if trusted and runs_code(facts.config, weights) else []
    notes += _leaks(source, held_out) if held_out else []
    kept = iter(held_out) if held_out else held_out_of(source, plan.schedule)
    return Job(
        request=request,
        folder=folder,
        device=device,
        onlooker=onlooker,
        facts=facts,
        weights=weights,
        tokenizer=tokenizer,
        data=data,
        references=list(islice(kept, NUM_REFERENCES)) if data.validation else [],
        notes=notes,
    )


def _leaks(source: ExampleSource, held_out: ExampleSource) -> list[str]:
    """Say how many of the examples held out are trained on as well.

    Raises:
        InputError: All of them are: a validation by them would say nothing.
    """
    kept_apart = {content_digest(example) for example in held_out}
    leaked = kept_apart & {
        digest for example in source if (digest := content_digest(example)) in kept_apart
    }
    if leaked == kept_apart:
        what = "all of its examples are trained on too, so it cannot show what was learned"
        fix = "name other examples, or leave it out: a part of the data is then held out"
        raise InputError(Problem("--validation", what, fix=fix))
    if not leaked:
        return []
    return [
        f"{len(leaked):,} of {len(kept_apart):,} different examples held out are trained on too: "
        "the validation loss flatters"
    ]


def _fingerprints(
    plan: FineTunePlan,
    weights: Path,
    tokenizer: Any,
    source: ExampleSource,
    held_out: ExampleSource | None,
) -> dict[str, str]:
    found = {
        f"data {source.name}": source.fingerprint(),
        f"model {plan.model}": model_fingerprint(weights),
        "tokenizer": encoder_of(tokenizer).fingerprint(),
    }
    if held_out:
        found[f"validation {held_out.name}"] = held_out.fingerprint()
    return found


def held_out_of(source: ExampleSource, schedule: Schedule) -> Iterator[Example]:
    """Yield the examples of a source that are held out from training."""
    split, found = Split.of(schedule), False
    for example in source:
        if split.side(example) == "validation":
            found = True
            yield example
    mended = None if found else split.mended()
    if mended:
        yield from (one for one in source if mended.side(one) == "validation")


def build(job: Job) -> Training:
    """Load the model and make it ready to train.

    Raises:
        InputError: The plan's method does not suit the model.
    """
    job.onlooker.on_activity("loading the model")
    torch.manual_seed(job.plan.schedule.seed)
    config = transformers_config(
        job.facts.config, job.plan.model, trust_remote_code=job.request.trust_remote_code
    )
    base = load_pretrained(job.weights, config, job.plan, job.device)
    model = prepare(base, job.plan).to(job.device)
    for adapter in getattr(model, "peft_config", {}).values():
        adapter.base_model_name_or_path = _base_name(job)
    return build_training(model, job.plan, on_cuda=job.device.type == "cuda")


def _base_name(job: Job) -> str:
    """What a saved adapter calls its base: the Hub's id, or where the folder is."""
    name = job.plan.model
    return str(Path(name).resolve()) if Path(name).exists() else name

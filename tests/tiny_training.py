"""The bundled tiny Llama, trained a few steps on the bundled questions: what several tests need."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from estimator.models import resolve_model
from estimator.plan import FineTunePlan, load_plan
from trainer.build import Training, build_training, prepare
from trainer.example_formats import Example
from trainer.examples import open_examples
from trainer.skeleton import transformers_config
from trainer.step import StepHooks, training_step
from trainer.tokens import encode_all, encoder_of
from trainer.untyped import transformers
from trainer.weights import load_pretrained

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
MODEL = EXAMPLES / "tiny-llama"
CPU = torch.device("cpu")

Row = dict[str, list[int]]


@functools.cache
def questions() -> list[Example]:
    """The bundled examples; the model has seen those at even places before."""
    return list(open_examples(str(EXAMPLES / "questions.jsonl")))


@functools.cache
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(MODEL)


@functools.cache
def rows() -> list[Row]:
    encoded = encode_all(questions(), encoder_of(tokenizer()))
    return [{"input_ids": one.input_ids, "labels": one.labels} for one in encoded]


def plan_for(learning_rate: float = 1e-3, **keys: Any) -> FineTunePlan:
    plan = load_plan(EXAMPLES / "tiny.yaml")
    return plan.changed(**keys, schedule={"learning_rate": learning_rate})


def training(plan: FineTunePlan) -> Training:
    torch.manual_seed(0)
    config = transformers_config(resolve_model(plan.model).config, plan.model)
    base = load_pretrained(MODEL, config, plan, CPU)
    return build_training(prepare(base, plan), plan, on_cuda=False)


def train(made: Training, chosen: list[Row], num_steps: int) -> list[float]:
    """Take steps on all the rows at once, and return their losses."""
    batch = {
        name: torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(row[name]) for row in chosen], batch_first=True, padding_value=fill
        )
        for name, fill in (("input_ids", 0), ("labels", -100))
    }
    return [
        training_step(
            made, iter([batch]), num_micro_steps=1, on_cuda=False, hooks=StepHooks()
        ).item()
        for _ in range(num_steps)
    ]

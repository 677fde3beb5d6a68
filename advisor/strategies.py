"""What each strategy costs, as line items: what is paid once, every month, with every request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from advisor import cost_lines as lines
from advisor import cost_training_lines as training_lines
from estimator.cost_ledger import Line

ServedBy = Literal["gpu", "tokens", "unknown"]


@dataclass(frozen=True, slots=True)
class CostedStrategy:
    """One way to do it, and the lines its cost is made of.

    Attributes:
        id: Its key in results.
        title: What to call it.
        strategy: The advisor's strategy that it is a form of.
        lines: What it costs, and how many days until a first version.
    """

    id: str
    title: str
    strategy: str
    lines: tuple[Line, ...]


def hosted_lines(hosted_by: ServedBy) -> tuple[Line, ...]:
    """Return what fine-tuning by a provider costs.

    Args:
        hosted_by: How it serves what it tuned.
    """
    tuned = "tuned_input_tokens"
    return (
        *lines.work("hosted"),
        *training_lines.labels(),
        *training_lines.training(hosted=True),
        *(
            lines.own_serving(tuned, hosted=True)
            if hosted_by == "gpu"
            else lines.hosted_tokens(tuned)
        ),
    )


def costed_strategies(hosted_by: ServedBy) -> tuple[CostedStrategy, ...]:
    """Return every strategy with its lines, in order of effort.

    Args:
        hosted_by: How the provider of hosted fine-tuning serves what it tuned.
    """
    tuned = "tuned_input_tokens"
    finetune = (
        *lines.work("finetune"),
        *training_lines.labels(),
        *training_lines.training(),
        *training_lines.training_days(),
    )
    rag = (*lines.retrieval(), *lines.retrieved_api_tokens())
    return (
        CostedStrategy(
            "prompt",
            "Prompting an API model",
            "prompt",
            (*lines.work("prompt"), *lines.api_tokens()),
        ),
        CostedStrategy(
            "few_shot",
            "Worked examples in the prompt",
            "prompt",
            (*lines.work("few_shot"), *lines.api_tokens("few_shot_tokens")),
        ),
        CostedStrategy(
            "long_context",
            "All documents in the prompt",
            "long_context",
            (*lines.work("long_context"), *lines.long_context_tokens()),
        ),
        CostedStrategy(
            "rag",
            "Retrieval, an API model",
            "rag",
            (*lines.work("rag"), *rag, *lines.api_tokens()),
        ),
        CostedStrategy(
            "open_model",
            "An open model on your GPU, prompted",
            "prompt",
            (*lines.work("open_model"), *lines.own_serving("input_tokens")),
        ),
        CostedStrategy(
            "finetune",
            "Fine-tuned and served here",
            "finetune",
            (*finetune, *lines.own_serving(tuned)),
        ),
        CostedStrategy(
            "finetune_4bit",
            "Fine-tuned here, served in 4 bits",
            "finetune",
            (*finetune, *lines.own_serving(tuned, in_4_bits=True)),
        ),
        CostedStrategy(
            "finetune_hosted",
            "Fine-tuned by a provider",
            "finetune",
            hosted_lines(hosted_by),
        ),
        CostedStrategy(
            "rag+finetune",
            "Retrieval, fine-tuned and served here",
            "rag+finetune",
            (
                *lines.work("rag_finetune"),
                *training_lines.labels(),
                *training_lines.training("retrieved_tokens"),
                *training_lines.training_days(),
                *lines.retrieval(),
                *lines.own_serving(tuned, "retrieved_tokens"),
            ),
        ),
        CostedStrategy(
            "continued_pretraining",
            "Continued pre-training",
            "continued_pretraining",
            (
                *lines.work("pretraining"),
                *training_lines.pretraining(new=False),
                *lines.own_serving("input_tokens"),
            ),
        ),
        CostedStrategy(
            "new_model",
            "A new model from scratch",
            "new_model",
            (
                *lines.work("new_model"),
                *training_lines.pretraining(new=True),
                *lines.own_serving("input_tokens"),
            ),
        ),
    )

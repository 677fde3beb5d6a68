"""The card (README.md) of a saved fine-tune: what it is, how to load it, what was measured."""

from __future__ import annotations

import re
from functools import cache
from pathlib import PurePath
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from pydantic import Field

from estimator.catalogue import find_bundled_model
from estimator.documents import to_yaml
from estimator.gpus import GIB
from estimator.plan import FineTunePlan
from estimator.records import Record
from trainer.evaluation_results import Comparison, Evaluation, HistoryPoint
from trainer.loading_code import loading_code, small_loading_code
from trainer.redact import file_name, mask_secrets, redact_plan

UNKNOWN = "not known"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|&~$#{}])")
_STANDING_LIMITS = (
    "It inherits the base model's limits, biases and licence; training does not remove them.",
    "The figures hold for the data, the device and the software above, and for no others.",
)


class DataFacts(Record):
    """What a fine-tune was trained on; ``fingerprint`` is the SHA-256 of the file."""

    name: str
    num_examples: int | None = None
    num_train: int | None = None
    num_validation: int | None = None
    num_tokens: int | None = None
    fingerprint: str | None = None
    validation_name: str | None = None
    validation_fingerprint: str | None = None


class CardFacts(Record):
    """All that a card tells. What is None is shown as "not known".

    Attributes:
        saved: Whether the folder holds an adapter or a whole model.
        license: The Hub's id of the licence; None: the bundled base model's, where it is one.
        seconds: The whole run's time.
        remote_code: Whether Python code of the base model's own ran.
        limits: What else a user of the model has to know.
    """

    plan: FineTunePlan
    saved: Literal["adapter", "model"]
    data: DataFacts
    license: str | None = None
    device_name: str | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    total_bytes: int | None = None
    num_steps: int | None = None
    step_seconds_median: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    history: tuple[HistoryPoint, ...] = ()
    comparison: Comparison | None = None
    software: dict[str, str] = Field(default_factory=dict)
    remote_code: bool = False
    limits: tuple[str, ...] = ()


def model_card(facts: CardFacts) -> str:
    """Return the card as Markdown, with the Hub's metadata on top.

    Names of files and models are shown without the folders they lie in, secrets masked; what they
    hold can neither leave its cell nor become markup.
    """
    plan = redact_plan(facts.plan.to_document())
    base = plan["model"]
    code = loading_code(facts.plan, base, facts.saved, trust_remote_code=facts.remote_code)
    small = small_loading_code(facts.plan, base, facts.saved, trust_remote_code=facts.remote_code)
    text = (
        _environment()
        .get_template("card.md.j2")
        .render(
            facts=facts,
            metadata=Markup(to_yaml(_metadata(facts, base))),
            title=f"{PurePath(base).name}, fine-tuned ({facts.plan.method})",
            base=base,
            licence=_licence(facts),
            loading=_fenced(code, "python"),
            loading_small_title=_small_title(facts.plan),
            loading_small=_fenced(small, "python"),
            evaluation=_evaluation_rows(facts.comparison) if facts.comparison else (),
            training=_training_rows(facts),
            data=_data_rows(facts.data),
            measured=_measured_rows(facts),
            plan=_fenced(to_yaml(plan), "yaml"),
            software=_software(facts),
            limits=(*facts.limits, *_STANDING_LIMITS),
        )
    )
    return mask_secrets(text)


def escape_markdown(value: object) -> str:
    """Return a value as one line of text in which Markdown and HTML mean nothing."""
    if isinstance(value, Markup):
        return value
    line = "".join(one if one.isprintable() else " " for one in str(value))
    return _MARKDOWN.sub(r"\\\1", line).replace("://", ":&#47;&#47;")  # no link of itself


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("trainer"),
        autoescape=False,  # Markdown, not HTML: finalize escapes every value but Markup
        finalize=escape_markdown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _fenced(text: str, language: str) -> Markup:
    """A code block whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def _metadata(facts: CardFacts, base: str) -> dict[str, Any]:
    """The Hub's metadata; a base model that is no Hub id cannot be linked to, so it is left out."""
    found: dict[str, Any] = {"license": _license_id(facts) or "unknown"}
    if _HUB_ID.fullmatch(base):
        relation = "adapter" if facts.saved == "adapter" else "finetune"
        found |= {"base_model": base, "base_model_relation": relation}
    library = "peft" if facts.saved == "adapter" else "transformers"
    tags = ["tuneplan", "fine-tuned", facts.plan.method.replace("_", "-")]
    return found | {"library_name": library, "pipeline_tag": "text-generation", "tags": tags}


def _license_id(facts: CardFacts) -> str | None:
    if facts.license:
        return facts.license
    card = find_bundled_model(facts.plan.model)
    if card is None or card.id != facts.plan.model:  # one of equal shape may have another licence
        return None
    return card.license.lower()  # as the Hub writes them


def _licence(facts: CardFacts) -> str:
    found = _license_id(facts)
    if found:
        return f"Licence, from the base model: {found}."
    return "Licence: not known; it follows the base model's."


def _small_title(plan: FineTunePlan) -> str:
    if plan.is_quantized:
        return f"With the base model in {plan.quantization}, as it was trained (needs bitsandbytes)"
    return "In 4 bits, for less memory (needs bitsandbytes; answers can differ)"


def _evaluation_rows(comparison: Comparison) -> list[tuple[str, str, str]]:
    def row(name: str, field: str, digits: int = 3) -> tuple[str, str, str]:
        def shown(one: Evaluation) -> str:
            return _number(getattr(one, field), digits)

        return name, shown(comparison.before), shown(comparison.after)

    return [
        row("validation loss", "validation_loss"),
        row("validation perplexity", "perplexity"),
        row("exact match (share)", "exact_match"),
        row("ROUGE-L", "rouge_l"),
        row("perplexity of general text", "general_perplexity", 2),
    ]


def _training_rows(facts: CardFacts) -> list[tuple[str, str]]:
    training = [one.training_loss for one in facts.history if one.training_loss is not None]
    validation = [one.validation_loss for one in facts.history if one.validation_loss is not None]
    return [
        ("steps", _count(facts.num_steps)),
        ("training loss, first", _number(training[0] if training else None)),
        ("training loss, last", _number(training[-1] if training else None)),
        ("validation loss, lowest", _number(min(validation, default=None))),
        ("validation loss, last", _number(validation[-1] if validation else None)),
    ]


def _data_rows(data: DataFacts) -> list[tuple[str, str]]:
    return [
        ("file", file_name(data.name) or UNKNOWN),
        *_validation_rows(data),
        ("examples", _count(data.num_examples)),
        ("of these trained on", _count(data.num_train)),
        ("of these held out", _count(data.num_validation)),
        ("tokens", _count(data.num_tokens)),
        ("SHA-256", data.fingerprint or UNKNOWN),
    ]


def _validation_rows(data: DataFacts) -> list[tuple[str, str]]:
    if data.validation_name is None:
        return []
    return [
        ("file for validation", file_name(data.validation_name) or UNKNOWN),
        ("its SHA-256", data.validation_fingerprint or UNKNOWN),
    ]


def _measured_rows(facts: CardFacts) -> list[tuple[str, str]]:
    hours = None if facts.seconds is None else facts.seconds / 3600
    return [
        ("device", facts.device_name or UNKNOWN),
        ("peak memory allocated", _gib(facts.peak_allocated_bytes)),
        ("peak memory reserved", _gib(facts.peak_reserved_bytes)),
        ("memory in total", _gib(facts.total_bytes)),
        ("time of a step (median)", _with_unit(facts.step_seconds_median, "s")),
        ("tokens per second", _number(facts.tokens_per_second, 0)),
        ("time of the whole run", _with_unit(hours, "h")),
    ]


def _software(facts: CardFacts) -> str:
    return ", ".join(f"{name} {version}" for name, version in facts.software.items()) or UNKNOWN


def _number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def _count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def _gib(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value / GIB:,.3f} GiB"


def _with_unit(value: float | None, unit: str) -> str:
    return UNKNOWN if value is None else f"{value:,.3f} {unit}"

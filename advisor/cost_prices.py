"""The prices that a scenario's cost is reckoned with: its own, else today's known ones."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from advisor.input_book import InputBook, assumptions, exact
from advisor.scenario import Scenario
from estimator.gpus import bundled_gpus, find_gpu
from estimator.prices import PRICE_NAMES, age_warning, gpu_of, service_prices
from estimator.prices_api import ApiModel, ApiPrice, find_api_model
from estimator.prices_cache import find_prompt_cache
from estimator.prices_gpu import GpuPrice, offers_for
from estimator.problems import InputError, Problem

RENTED = ("training_gpu_hour", "serving_gpu_hour", "pretraining_gpu_hour")
DEFAULT_API_MODEL = "gpt-6-sol"
_API = ("api_input_mtok", "api_cached_read_mtok", "api_cache_write_mtok", "api_output_mtok")


def add_prices(book: InputBook, scenario: Scenario, today: date) -> None:
    """Write down prices of services, labels, people and API tokens, and every override.

    Raises:
        InputError: The workload names an API model that has no price.
    """
    workload = scenario.workload
    for price in service_prices():
        spread = (price.low, price.mid, price.high)
        if price.name == "label" and workload and workload.label_usd_low is not None:
            low, high = exact(workload.label_usd_low), exact(workload.label_usd_high or 0)
            spread = (low, (low + high) / 2, high)
            source = "workload.label_usd_low and label_usd_high"
            book.add(price.name, price.label, price.unit, spread, "scenario", source)
            continue
        is_quoted = price.checked_at is not None
        book.add(
            price.name,
            price.label,
            price.unit,
            spread,
            "quoted" if is_quoted else "assumed",
            f"{price.source} ({price.confidence} confidence)",
            checked_at=price.checked_at,
            warning=(age_warning(price.label, price.checked_at, today) or "") if is_quoted else "",
        )
    _add_api(book, scenario, today)


def override(book: InputBook, scenario: Scenario) -> None:
    """Put the scenario's own prices in place of those known.

    Where only the price of plain input tokens is given, cached ones keep their ratio to it. Of
    several names for one GPU's hour the most particular counts: what the GPU does, then which GPU
    it is, then ``gpu_hour``.
    """
    for name, usd in scenario.prices.items():
        for target in _targets(name, book, scenario):
            if name == "api_input_mtok":
                _keep_ratios(book, target, exact(usd), scenario)
            label, _, unit = PRICE_NAMES[target.removeprefix("long_")].rpartition(", ")
            gpu = book.gpus.get(target)
            book.unknown.pop(target, None)
            label = f"{label}, {gpu}" if gpu else label
            book.add(target, label, unit, usd, "scenario", f"prices.{name}")
    _warn_of_one_price_for_all(book, scenario)


def _targets(name: str, book: InputBook, scenario: Scenario) -> list[str]:
    gpu = gpu_of(name)
    if gpu is not None:
        wanted = find_gpu(gpu).name
        return [
            one
            for one, known in book.gpus.items()
            if known == wanted and one not in scenario.prices
        ]
    if name == "gpu_hour":
        named = {find_gpu(gpu).name for gpu in map(gpu_of, scenario.prices) if gpu}
        return [
            one for one in RENTED if one not in scenario.prices and book.gpus.get(one) not in named
        ]
    if name in _API:
        return [name, f"long_{name}"]
    return [name]


def _warn_of_one_price_for_all(book: InputBook, scenario: Scenario) -> None:
    plan = scenario.plan
    if plan is None or "gpu_hour" not in scenario.prices:
        return
    own = plan.gpu_spec.name
    is_bundled = any(gpu.name == own for gpu in bundled_gpus())
    particular = f"`gpu_hour:{own}`" if is_bundled else "training_gpu_hour or serving_gpu_hour"
    for name in RENTED:
        gpu = book.gpus.get(name)
        if gpu not in (None, own) and book.inputs[name].source == "prices.gpu_hour":
            use = book.inputs[name].label.removesuffix(f", {gpu}")
            book.notes.append(
                f"prices.gpu_hour is taken for {use} too ({gpu}), though the plan's GPU is {own}: "
                f"write {particular} where it is that one's price."
            )


def _keep_ratios(book: InputBook, target: str, usd: Decimal, scenario: Scenario) -> None:
    plain = book.inputs.get(target)
    if plain is None or not plain.mid:
        return
    for cached in ("api_cached_read_mtok", "api_cache_write_mtok"):
        known = book.inputs.get(target.replace("api_input_mtok", cached))
        if known is not None and cached not in scenario.prices:
            source = f"prices.api_input_mtok; ratio to it as in {known.source}"
            spread = usd * known.mid / plain.mid
            book.add(known.name, known.label, known.unit, spread, "scenario", source)


def add_gpu_price(book: InputBook, name: str, label: str, gpu: str, today: date) -> None:
    """Write down what a GPU costs by the hour: the quartiles of its known offers."""
    book.gpus[name] = gpu
    offers = offers_for(gpu)
    if offers is None:
        reason = f"no price of {gpu} is known: set prices.{name}"
        book.miss(reason, name)
        return
    prices = (offers.low, offers.mid, offers.high)
    spread = tuple(price.usd_per_gpu_hour for price in prices)
    book.add(
        name,
        f"{label}, {gpu}",
        "USD per hour",
        spread,
        "quoted",
        f"median of {offers.num_offers} offers: {_words(offers.mid)}; quartiles: "
        f"{_words(offers.low)}, {_words(offers.high)}",
        checked_at=offers.mid.checked_at,
        warning=age_warning(f"{gpu}, {offers.mid.provider}", offers.mid.checked_at, today) or "",
    )


def _words(price: GpuPrice) -> str:
    return f"{price.words} {price.usd_per_gpu_hour} ({price.page or price.source})"


def _add_api(book: InputBook, scenario: Scenario, today: date) -> None:
    workload = scenario.workload
    name = workload.api_model if workload and workload.api_model else DEFAULT_API_MODEL
    model = find_api_model(name, where="workload.api_model")
    if not (workload and workload.api_model):
        book.notes.append(
            f"workload.api_model names no API model: prices are those of {model.info.id}."
        )
    prompt = workload.input_tokens if workload else 0
    in_batches = workload is not None and workload.in_batches
    price = model.price(prompt_tokens=prompt, today=today)
    _add_tokens(book, "", price, today, in_batches=in_batches)
    _add_cache(book, price)
    _add_long(book, model, prompt, today, in_batches=in_batches)


def _add_cache(book: InputBook, price: ApiPrice) -> None:
    """Write down what the provider documents of its cache, in place of what is assumed."""
    found = find_prompt_cache(price.provider, price.model)
    if found is None:
        return
    for name, spread in (
        ("least_cached_tokens", found.least_tokens),
        ("cache_lifetime_seconds", found.lifetime_seconds),
    ):
        if spread is not None:
            row = assumptions()[name]
            label = f"{row.label}, {price.model}"
            day = found.checked_at
            book.add(name, label, row.unit, spread, "quoted", found.source, checked_at=day)


def _add_long(
    book: InputBook, model: ApiModel, prompt: int, today: date, *, in_batches: bool
) -> None:
    """Write down prices for prompts that hold all documents: some models charge more for them."""
    names = [f"long_{name}" for name in _API]
    if "corpus_tokens" in book.unknown:
        book.miss(book.unknown["corpus_tokens"], "whole_corpus", *names)
        return
    corpus = book.inputs["corpus_tokens"]
    length = int(corpus.mid) + prompt
    price = model.price(prompt_tokens=length, today=today)
    _add_tokens(book, "long_", price, today, in_batches=in_batches)
    window = price.context_window
    if window is not None and length > window:
        reason = f"{length:,} tokens do not fit the context of {price.model} ({window:,} tokens)"
        book.miss(reason, "whole_corpus")
        return
    high = corpus.high if window is None else min(corpus.high, Decimal(window - prompt))
    label = "all documents, in every prompt"
    spread = (corpus.low, corpus.mid, high)
    book.add("whole_corpus", label, "tokens", spread, corpus.basis, corpus.source)


def _add_tokens(
    book: InputBook, prefix: str, price: ApiPrice, today: date, *, in_batches: bool
) -> None:
    plain, output = price.input_mtok, price.output_mtok
    if in_batches:
        if price.batch_input_mtok is None or price.batch_output_mtok is None:
            what = f"true, and {price.model} has no price for batches"
            fix = "leave it out, or name another api_model"
            raise InputError(Problem("workload.in_batches", what, fix=fix))
        plain, output = price.batch_input_mtok, price.batch_output_mtok
    share = plain / price.input_mtok if price.input_mtok else Decimal(1)
    read, write = price.cached_read_mtok, price.cache_write_mtok
    amounts: dict[str, Decimal] = {
        "api_input_mtok": plain,
        "api_cached_read_mtok": plain if read is None else read * share,
        "api_cache_write_mtok": plain if write is None else write * share,
        "api_output_mtok": output,
    }
    for name, amount in amounts.items():
        label = PRICE_NAMES[name].rpartition(", ")[0].replace("the API model", price.model)
        book.add(
            f"{prefix}{name}",
            label + (", prompts with all documents" if prefix else ""),
            "USD per million tokens",
            amount,
            "quoted",
            f"{price.source}{', in batches' if in_batches else ''} ({price.page})",
            checked_at=price.checked_at,
            warning=age_warning(price.model, price.checked_at, today) or "",
        )

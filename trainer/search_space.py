"""What a search may vary: defaults by method, what a person asks for, and the plans that follow."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, cast, get_args

from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.learning_rates import LEARNING_RATES
from trainer.search_results import Dimension, Parameters, SearchKey

KEYS: tuple[SearchKey, ...] = get_args(SearchKey)
HAS_RANK = ("lora", "qlora")
RANKS = (4, 8, 16, 32, 64)
"""Powers of two around the default of 16. LoRA (arXiv:2106.09685, table 6) lost nothing at 4, and
QLoRA (arXiv:2305.14314, figure 4) gained nothing from 8 to 256."""
DECADES = 10
"""The learning rate is searched from a tenth of the plan's to ten times it."""

_RATE_DIGITS = 3
_FORMS = "LOW..HIGH, or values with commas"
_EXAMPLES = {"learning_rate": "1e-5..1e-3", "adapter.r": "4,8,16", "epochs": "1..4"}


def search_space(plan: FineTunePlan, asked: Iterable[str] = ()) -> tuple[Dimension, ...]:
    """Return what is searched: the method's defaults, with what was asked for in their place.

    Args:
        plan: The plan that is varied.
        asked: ``key=LOW..HIGH`` or ``key=value,value``; one value keeps the key there.

    Raises:
        InputError: Something of it is wrong, one problem for each, or nothing is left to search.
    """
    found = default_space(plan)
    problems: list[Problem] = []
    seen: set[str] = set()
    for text in asked:
        try:
            dimension = _dimension(plan, text)
        except InputError as error:
            problems += error.problems
            continue
        if dimension.key in seen:
            problems.append(_problem(text, f"{dimension.key} is given twice", fix="keep one"))
        seen.add(dimension.key)
        found[dimension.key] = dimension
    if not problems and all(len(one.values) == 1 for one in found.values()):
        what = "nothing is left to search: every key has one value"
        problems.append(Problem("--search", what, fix="give one of them a range"))
    if problems:
        raise InputError(problems)
    return tuple(found[key] for key in KEYS if key in found)


def default_space(plan: FineTunePlan) -> dict[SearchKey, Dimension]:
    """Return what suits the plan's method.

    A learning rate within a factor of ten of the plan's, for LoRA and QLoRA the usual ranks and
    the plan's own, and whole epochs up to the plan's.
    """
    rate = _rate(plan)
    most = math.floor(plan.epochs)
    dimensions = [
        Dimension(
            key="learning_rate",
            low=_rounded(rate / DECADES),
            high=min(10.0, _rounded(rate * DECADES)),
        ),
        Dimension(key="epochs", low=1, high=most)
        if most > 1
        else Dimension(key="epochs", values=(plan.epochs,)),
    ]
    if plan.method in HAS_RANK:
        ranks = sorted({*RANKS, plan.adapter.r})
        dimensions.append(Dimension(key="adapter.r", values=tuple(map(float, ranks))))
    return {one.key: one for one in dimensions}


def plan_with(plan: FineTunePlan, parameters: Parameters) -> FineTunePlan:
    """Return the plan with what a trial tries in it.

    With the rank goes alpha, so that LoRA's scale stays as the plan has it: alpha / r, with
    rsLoRA alpha / sqrt(r). By default alpha is 32 and r 16, so alpha stays 2 r.

    Raises:
        InputError: No plan can have these.
    """
    document: dict[str, Any] = {}
    if (rate := parameters.get("learning_rate")) is not None:
        document["schedule"] = plan.schedule.model_dump() | {"learning_rate": rate}
    if (rank := parameters.get("adapter.r")) is not None:
        power = 0.5 if plan.adapter.use_rslora else 1
        alpha = plan.adapter.alpha * (rank / plan.adapter.r) ** power
        adapter = plan.adapter.model_dump(mode="json")
        document["adapter"] = adapter | {"r": _whole(rank), "alpha": alpha}
    if (epochs := parameters.get("epochs")) is not None:
        document["epochs"] = epochs
    return plan.changed(**document)


def own_parameters(plan: FineTunePlan, space: Iterable[Dimension]) -> Parameters:
    """Return the plan's own settings, or what is searched that lies nearest to them."""
    own: Parameters = {
        "learning_rate": _rate(plan),
        "adapter.r": float(plan.adapter.r),
        "epochs": plan.epochs,
    }
    return {one.key: _nearest(one, own[one.key]) for one in space}


def is_own(plan: FineTunePlan, parameters: Parameters) -> bool:
    """Return whether settings are the plan's own."""
    return plan_with(plan, parameters) == plan_with(plan, {"learning_rate": _rate(plan)})


def _nearest(dimension: Dimension, value: float) -> float:
    if dimension.values:
        return min(dimension.values, key=lambda one: abs(math.log(one / value)))
    inside = min(max(value, dimension.low), dimension.high)
    return float(math.floor(inside)) if dimension.key == "epochs" else inside


def combinations(space: Iterable[Dimension]) -> list[Parameters] | None:
    """Return everything that can be tried, None where a range of learning rates has no end."""
    dimensions = list(space)
    if any(one.key == "learning_rate" and not one.values for one in dimensions):
        return None
    choices = [
        one.values or tuple(float(n) for n in range(round(one.low), round(one.high) + 1))
        for one in dimensions
    ]
    found: list[Parameters] = []
    for chosen in itertools.product(*choices):
        found.append({one.key: value for one, value in zip(dimensions, chosen, strict=True)})
    return found


def as_tried(parameters: dict[str, Any]) -> Parameters:
    """Return what is drawn as it is tried: learning rates to three digits, as people write them."""
    return {
        cast("SearchKey", key): _rounded(value) if key == "learning_rate" else float(value)
        for key, value in parameters.items()
    }


def typed(dimension: Dimension) -> str:
    """Return what is typed after ``--search`` for a dimension."""
    if dimension.values:
        return f"{dimension.key}={','.join(f'{value:g}' for value in dimension.values)}"
    return f"{dimension.key}={dimension.low:g}..{dimension.high:g}"


def _dimension(plan: FineTunePlan, text: str) -> Dimension:
    name, equals, value = text.partition("=")
    key = cast("SearchKey", name.strip().removeprefix("schedule."))
    if key not in KEYS:
        close = difflib.get_close_matches(key, KEYS, 1)
        fix = f"did you mean {close[0]}?" if close else "leave it out"
        raise InputError(_problem(text, f"{name.strip()!r} is not searched", ", ".join(KEYS), fix))
    if key == "adapter.r" and plan.method not in HAS_RANK:
        what = f"{plan.method} has no rank"
        fix = "leave it out, or take method lora or qlora"
        raise InputError(_problem(text, what, "learning_rate, epochs", fix))
    fix = f"for example --search {key}={_EXAMPLES[key]}"
    if not equals or not value.strip():
        raise InputError(_problem(text, "does not say what to try", _FORMS, fix))
    low, dots, high = value.partition("..")
    numbers = [_number(part, text, fix) for part in ([low, high] if dots else value.split(","))]
    problems = [found for number in numbers for found in _impossible(plan, key, number, text)]
    if dots and numbers[0] >= numbers[1]:
        problems.append(_problem(text, f"{low} is not below {high}", "LOW..HIGH", fix))
    if problems:
        raise InputError(problems)
    if not dots:
        return Dimension(key=key, values=tuple(sorted(set(numbers))))
    return _range(key, numbers[0], numbers[1], text)


def _range(key: SearchKey, low: float, high: float, text: str) -> Dimension:
    if key == "adapter.r":
        ranks = tuple(float(2**n) for n in range(14) if low <= 2**n <= high)
        if not ranks:
            what = "there is no power of two between these"
            raise InputError(_problem(text, what, fix="list ranks: --search adapter.r=12,24"))
        return Dimension(key=key, values=ranks)
    if key == "epochs" and not (low.is_integer() and high.is_integer()):
        fix = "list them: --search epochs=0.5,1,2"
        raise InputError(_problem(text, "a range of epochs goes in whole ones", fix=fix))
    return Dimension(key=key, low=low, high=high)


def _impossible(plan: FineTunePlan, key: SearchKey, number: float, text: str) -> Iterator[Problem]:
    try:
        plan_with(plan, {key: number})
    except InputError as error:
        for one in error.problems:
            yield _problem(text, one.what, one.allowed, one.fix)


def _number(part: str, text: str, fix: str) -> float:
    try:
        number = float(part)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(_problem(text, f"{part.strip()!r} is no number", _FORMS, fix))
    return number


def _problem(text: str, what: str, allowed: str = "", fix: str = "") -> Problem:
    return Problem(f"--search {text}", what, allowed, fix)


def _rate(plan: FineTunePlan) -> float:
    return plan.schedule.learning_rate or LEARNING_RATES[plan.method]


def _rounded(rate: float) -> float:
    return float(f"{rate:.{_RATE_DIGITS - 1}e}")


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value

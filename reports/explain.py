"""Sentences about estimates that every report says in the same words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from estimator.architecture import Architecture
from estimator.estimate import MemoryEstimate
from estimator.models import resolve_model
from estimator.problems import InputError
from estimator.states import read_states
from reports.units import gb, gib


def full_states(estimates: Iterable[MemoryEstimate]) -> str | None:
    """Return what a full fine-tune keeps for each parameter, beside what textbooks say.

    The textbook number (112 GB for a 7B model at 16 bytes a parameter) takes the parameters from
    the model's name; the model has another number of them.

    Returns:
        The explanation, or None where no full fine-tune of a described architecture is among the
        estimates.
    """
    full = next((one for one in estimates if one.plan.method == "full"), None)
    if full is None:
        return None
    try:
        architecture = Architecture.from_config(resolve_model(full.plan.model).config)
    except InputError:
        return None
    states = read_states(full.plan, architecture)
    parts = (states.weights, states.gradients, states.optimizer_states)
    count = architecture.num_parameters
    total = sum(parts)
    each = total / count
    text = (
        "A full fine-tune keeps weights, gradients and optimizer states: "
        f"{' + '.join(f'{part / count:.4g}' for part in parts)} = {each:.4g} bytes x "
        f"{count:,} parameters = {gb(total)}, which is {gib(total)}. Activations come on top."
    )
    billions = _billions_in_name(full.plan.model, count)
    if billions:
        text += (
            f" The textbook figure of {gb(round(each * billions * 1e9))} counts {billions:g}e9 "
            f"parameters, as the model's name rounds them."
        )
    return text


def _billions_in_name(model: str, num_parameters: int) -> float | None:
    """Return the billions that a model's name says, None where it says none near its own."""
    name = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", model.lower().rpartition("/")[2])
    said = float(name[1]) if name else 0
    # a mixture's "8x7b" and the like count something else
    return said if 0.5 < said * 1e9 / num_parameters < 2 else None

"""Sentences about estimates that every report says in the same words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from estimator.estimate import MemoryEstimate
from reports.units import gb, gib


def full_states(estimates: Iterable[MemoryEstimate]) -> str | None:
    """Return what a full fine-tune keeps for each parameter, beside what textbooks say.

    The textbook number (112 GB for a 7B model at 16 bytes a parameter) takes the parameters from
    the model's name; the model has another number of them.

    Returns:
        The explanation, or None where no full fine-tune is among the estimates.
    """
    full = next((one for one in estimates if one.plan.method == "full"), None)
    if full is None or full.states_bytes is None or not full.parameters.total:
        return None
    each = full.states_bytes / full.parameters.total
    text = (
        f"A full fine-tune keeps weights, gradients and optimizer states: {each:.4g} bytes x "
        f"{full.parameters.total:,} parameters = {gb(full.states_bytes)}, which is "
        f"{gib(full.states_bytes)}. Activations come on top."
    )
    name = re.search(r"(\d+(?:\.\d+)?)b(?![a-z])", full.plan.model.lower().rpartition("/")[2])
    if name:
        billions = float(name[1])
        text += (
            f" The textbook figure of {gb(round(each * billions * 1e9))} counts {billions:g}e9 "
            f"parameters, as the model's name rounds them."
        )
    return text

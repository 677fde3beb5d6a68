"""The library's readings of a plan, remembered between reruns of a page."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.memory import read_formula
from estimator.plan import FineTunePlan
from trainer import launch


@dataclass(slots=True)
class _Slot:
    """One plan's dry run, once there is one; sessions that ask for the same plan share it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    estimate: MemoryEstimate | None = None


def formula(plan: FineTunePlan) -> MemoryEstimate:
    """Return the formula reading of a plan.

    Raises:
        InputError: The model cannot be found or described.
        NoFormula: The closed form does not hold for this plan.
    """
    return _formula(plan.model_dump_json())


@st.cache_data(ttl=60, max_entries=256, show_spinner=False)
def _formula(plan_json: str) -> MemoryEstimate:
    return read_formula(FineTunePlan.model_validate_json(plan_json))


@st.cache_resource(ttl=3600, max_entries=64, show_spinner=False)
def _slot(plan_json: str) -> _Slot:
    _ = plan_json  # the cache's key
    return _Slot()


def known_dry_run(plan: FineTunePlan) -> MemoryEstimate | None:
    """Return this plan's dry run if one was made in the last hour."""
    return _slot(plan.model_dump_json()).estimate


def dry_run(plan: FineTunePlan, on_progress: Callable[[str], None]) -> MemoryEstimate:
    """Return this plan's dry run, made in a process of its own unless it is already known.

    Raises:
        InputError: The plan cannot be run.
        WorkerFailed: The process failed.
    """
    slot = _slot(plan.model_dump_json())
    with slot.lock:
        if slot.estimate is None:
            slot.estimate = launch.dry_run(plan, on_progress=on_progress)
        return slot.estimate

"""What one page hands on to the next, within one visitor's session."""

from __future__ import annotations

from dataclasses import dataclass, field

import streamlit as st

from advisor.scenario import Scenario
from estimator.estimate import MemoryEstimate
from estimator.plan import FineTunePlan

_KEY = "carried"


@dataclass(slots=True)
class Carried:
    """The one place for what is carried on; widgets keep their own values by their keys."""

    plan: FineTunePlan | None = None
    scenario: Scenario | None = None
    """What was opened on the Decide page: its workload, prices and notes stay with the session."""
    dry_runs: dict[str, MemoryEstimate] = field(default_factory=dict)
    """The dry run made last of each method, though its plan may have changed since."""


def carried() -> Carried:
    """Return what this session carries from page to page."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = Carried()
    return st.session_state[_KEY]


def carry_method(method: str) -> None:
    """Let the estimate page open with this method chosen."""
    st.session_state["method"] = method

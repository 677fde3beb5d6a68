"""Reading many variants of a plan: by the formula where it holds, else by a few dry runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from estimator.estimate import Device, Fits, MemoryEstimate
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from estimator.problems import InputError

Confirm = Callable[[FineTunePlan], MemoryEstimate]
"""Makes the dry run of a plan. It is handed in, for the estimator itself knows no torch."""


class NotConfirmed(Exception):
    """A dry run could not be made; ``reason`` is one plain sentence that says why."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(slots=True)
class Reader:
    """Reads plans for one device and remembers every reading.

    Attributes:
        confirm: Makes a dry run; None where none is wanted.
        device: Where the plans run.
        dry_runs_left: How many more may be made.
        refusals: Why something could not be read, each reason once.
    """

    confirm: Confirm | None = None
    device: Device = "cuda"
    dry_runs_left: int = 0
    refusals: dict[str, None] = field(default_factory=dict)
    num_dry_runs: int = 0
    _formulas: dict[str, MemoryEstimate | None] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)
    _dry_runs: dict[str, MemoryEstimate | None] = field(default_factory=dict)

    def allowing(self, dry_runs: int) -> Reader:
        """Return this reader, with leave for this many dry runs more (and no others)."""
        self.dry_runs_left = dry_runs
        return self

    def formula(self, plan: FineTunePlan) -> MemoryEstimate | None:
        """Return the formula's reading, judged on the plan's own GPU; None where none holds."""
        key = plan.model_dump_json()
        if key not in self._formulas:
            try:
                self._formulas[key] = read_formula(plan, device=self.device, gpus=(plan.gpu_spec,))
            except NoFormula as refusal:
                self._formulas[key] = None
                self._reasons[key] = refusal.reason
        if self._formulas[key] is None and self.confirm is None:
            self.refusals[self._reasons[key]] = None
        return self._formulas[key]

    def dry_run(self, plan: FineTunePlan) -> MemoryEstimate | None:
        """Return the dry run's reading; None where none may be made or it broke."""
        key = plan.model_dump_json()
        if key in self._dry_runs:
            return self._dry_runs[key]
        if self.confirm is None or self.dry_runs_left < 1:
            return None
        self.dry_runs_left -= 1
        self.num_dry_runs += 1
        try:
            self._dry_runs[key] = self.confirm(plan)
        except (InputError, NotConfirmed) as refusal:
            self.refusals[str(refusal)] = None
            self._dry_runs[key] = None
        return self._dry_runs[key]

    def read(self, plan: FineTunePlan) -> MemoryEstimate | None:
        """Return the formula's reading, the dry run's where none holds, None without either."""
        found = self.formula(plan) or self.dry_run(plan)
        if found is None:
            self.refusals[self._reasons[plan.model_dump_json()]] = None
        return found


def fits_in(estimate: MemoryEstimate, capacity_bytes: int) -> Fits:
    """Return whether a step fits a memory; on a CPU there is no allocator's cache to count."""
    if estimate.device == "cpu":
        return "yes" if estimate.peak_allocated_bytes <= capacity_bytes else "no"
    if estimate.comfortable_need_bytes <= capacity_bytes:
        return "yes"
    return "tight" if estimate.smallest_need_bytes <= capacity_bytes else "no"

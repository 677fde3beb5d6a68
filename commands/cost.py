"""tuneplan cost: what every strategy costs over a scenario's workload."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.shared import AsJson, show
from estimator.problems import InputError, Problem

if TYPE_CHECKING:
    from advisor.cost_models import MeasuredSpeed

MAX_DRAWS = 100_000


def cost(
    scenario: Annotated[Path, typer.Argument(metavar="SCENARIO", help="A scenario file.")],
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="ID", help="Every item of this one.")
    ] = None,
    draws: Annotated[
        int, typer.Option("--draws", min=1, max=MAX_DRAWS, help="Random draws for ranges.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="What they begin with.")] = 0,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="RUN", help="Take the training speed that it measured."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what each strategy costs once, a month and over two years, and where they break even."""
    from advisor.costs import reckon_costs
    from advisor.scenario import load_scenario
    from reports import terminal_cost

    today = datetime.now(tz=UTC).date()
    measured = _measured(run) if run else None
    found = reckon_costs(
        load_scenario(scenario), today=today, draws=draws, seed=seed, measured=measured
    )
    ids = [one.id for one in found.strategies]
    if strategy is not None and strategy not in ids:
        what = f"{strategy!r} is no strategy"
        raise InputError(Problem("--strategy", what, ", ".join(ids), "name one of them"))
    if strategy is None:
        show(found.to_document(), lambda: terminal_cost.costs(found), as_json)
    else:
        show(found.to_document(), lambda: terminal_cost.items(found, strategy), as_json)


def _measured(name: str) -> MeasuredSpeed:
    """Return how fast a run trained, and on which GPU.

    Raises:
        InputError: There is no such run, it has no speed, or it ran on a CPU.
    """
    from reports.measured_runs import measured_speed
    from trainer.finetune_results import FineTuneResult
    from trainer.results import ProbeResult
    from trainer.runs import find_run

    run = find_run(name)
    result = run.result()
    speed = measured_speed(run.id, result) if result else None
    if speed is not None:
        return speed
    what = "has measured no training speed"
    if isinstance(result, ProbeResult | FineTuneResult) and result.tokens_per_second is not None:
        what = f"was measured on a CPU ({result.device_name}), which has no price by the hour"
    fix = "name a run that trained on a GPU, or leave --run out"
    raise InputError(Problem(f"--run {run.id}", what, fix=fix))

"""What a plan can say and no step is built for yet."""

from __future__ import annotations

from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem


def refuse_what_is_not_built(plan: FineTunePlan) -> None:
    """Refuse a step that would not be the plan's own: it would be worse than none.

    Raises:
        InputError: The plan's step is spread over several GPUs.
    """
    if plan.parallel.strategy != "none":
        what = f"{plan.parallel.strategy} is not run yet: the step is taken on one GPU"
        fix = "set parallel.strategy: none"
        raise InputError(Problem("parallel.strategy", what, "none", fix))

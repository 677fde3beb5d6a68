"""Where the advice would go if the needs were other: a map over knowledge and behaviour."""

from __future__ import annotations

from advisor.answers import Answers
from advisor.rules import AXIS_MAX, Axis
from advisor.scoring import applied, best, held_axes, raw_axes


def decision_regions(answers: Answers, *, num_cells: int = 40) -> tuple[tuple[str, ...], ...]:
    """Return the strategy that would be recommended at each point of a grid.

    All else stays as answered: the need for domain knowledge, the adjustments and the gates.

    Args:
        answers: Valid answers.
        num_cells: Cells along each axis; a cell is judged at its centre.

    Returns:
        Rows by knowledge, from 0 upwards; in each row strategy ids by behaviour, from 0 upwards.
    """
    found = applied(answers)
    candidates = found.open_strategies()
    domain = held_axes(raw_axes(found.rules))["domain"]
    centres = [(cell + 0.5) * AXIS_MAX / num_cells for cell in range(num_cells)]

    def winner(knowledge: float, behaviour: float) -> str:
        axes: dict[Axis, float] = {
            "knowledge": knowledge,
            "behaviour": behaviour,
            "domain": domain,
        }
        return best(candidates, found, axes)

    return tuple(
        tuple(winner(knowledge, behaviour) for behaviour in centres) for knowledge in centres
    )

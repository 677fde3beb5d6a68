"""docs/memory.md prints what the estimate prints, and its hand calculation comes near it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from estimator.documents import read_document
from estimator.memory import read_formula
from estimator.plan import FineTunePlan, load_plan, parse_plan
from trainer.dry_runs import DryRuns

PROJECT = Path(__file__).resolve().parents[1]
EXAMPLES = ["Llama-2-7B", "Llama-3.1-8B"]
TEXT = (PROJECT / "docs" / "memory.md").read_text(encoding="utf-8")


def plan_of(example: str, folder: Path) -> FineTunePlan:
    if example == "Llama-2-7B":
        return load_plan(PROJECT / "examples" / "llama-2-7b.yaml")
    block = re.search(r"```yaml\n(.*?)```", section(example), re.DOTALL)
    assert block
    (folder / "plan.yaml").write_text(block[1])
    return parse_plan(read_document(folder / "plan.yaml"))


def section(example: str) -> str:
    return re.split(r"\n## ", TEXT.split(f"of {example}\n")[1])[0]


def rows(example: str) -> dict[str, tuple[int, int]]:
    """Return, by component, what the page computes by hand and what it says is printed."""
    found = {}
    for line in section(example).splitlines():
        cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.match(r"[\d,]+$", cells[2]):
            printed = cells[3].partition(", ")[0] if " GiB" in cells[3] else cells[3]
            found[cells[0]] = (int(cells[2].replace(",", "")), int(printed.replace(",", "")))
    return found


def test_the_dry_runs_named_are_those_made_now(tmp_path: Path) -> None:
    with DryRuns() as dry_runs:
        for example in EXAMPLES:
            said = re.search(r"dry run says ([\d,]+)", section(example))
            assert said
            estimate = dry_runs.dry_run(plan_of(example, tmp_path))
            assert int(said[1].replace(",", "")) == estimate.peak_allocated_bytes


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_worked_examples_are_what_is_printed_now(example: str, tmp_path: Path) -> None:
    estimate = read_formula(plan_of(example, tmp_path))
    table = rows(example)
    by_hand, peak = table.pop("peak")
    assert peak == estimate.peak_allocated_bytes
    assert by_hand == sum(hand for hand, _ in table.values())
    assert by_hand == pytest.approx(peak, rel=5e-4)
    printed = {name.replace(" ", "_"): size for name, (_, size) in table.items()}
    sizes = estimate.components_bytes.items()
    assert printed == {name: size for name, size in sizes if size}

"""docs/accuracy.md names every measured row and says what a dry run gives today."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.accuracy_rows import Measured, in_short, notes, published
from bench.accuracy_scores import score
from bench.accuracy_tables import NEAR, percent

PROJECT = Path(__file__).resolve().parents[1]
PAGE = (PROJECT / "docs" / "accuracy.md").read_text(encoding="utf-8")
README = (PROJECT / "README.md").read_text(encoding="utf-8")
STEPS = {step.id: step for step in published()}
QUICK = ("t4-sweep-33", "t4-phase3-6")


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def table_rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "---"][1:]


ROWS = {row[0].strip("`"): row for row in table_rows(section("Every row"))}


def fraction(text: str) -> float:
    return float(text.removesuffix(" %")) / 100


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_every_published_row_is_there_as_it_was_measured(step: Measured) -> None:
    _, _, plan, allocated, _, _, reserved, _, _ = ROWS[step.id]
    assert plan == in_short(step.plan)
    assert float(allocated) == pytest.approx(step.allocated_bytes / 2**30, abs=5e-4)
    if step.reserved_bytes:
        assert float(reserved) == pytest.approx(step.reserved_bytes / 2**30, abs=5e-4)


def test_what_is_explained_exists_and_is_on_the_page() -> None:
    explained = section("Rows that need a word")
    for row, note in notes().items():
        assert row in STEPS
        assert f"`{row}`" in explained
        assert note.why in explained


def test_every_row_that_is_far_off_is_explained() -> None:
    reserved = {row: cells[7] for row, cells in ROWS.items() if cells[7] != "-"}
    far = {row for row, error in reserved.items() if abs(fraction(error)) > NEAR}
    far |= {row for row, cells in ROWS.items() if abs(fraction(cells[4])) > 0.01}
    assert far
    assert far <= set(notes())


@pytest.mark.parametrize("row", QUICK)
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # peft asks transformers an old question
def test_the_errors_are_those_of_a_dry_run_today(row: str) -> None:
    today = score(STEPS[row])
    _, _, _, _, allocated, formula, _, reserved, in_band = ROWS[row]
    assert allocated == percent(today.dry_run_allocated)
    assert reserved == percent(today.dry_run_reserved)
    assert formula == ("refuses" if today.formula_refusal else percent(today.formula_allocated))
    assert in_band == ("yes" if today.is_reserved_in_band else "no")


def test_the_readme_says_the_same() -> None:
    told = README.split("## How near the numbers are\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in told.splitlines() if line.startswith("| ")]
    assert len(table) > 3
    for line in table:
        assert line in PAGE, line
    for page in ("docs/accuracy.md", "docs/speed.md"):
        assert page in told
        assert (PROJECT / page).exists()

"""How far the formula and the dry run are from what was measured on GPUs.

    python bench/accuracy.py [--group TEXT] [--json FILE] [--write]

Scores the published runs of bench/published and the own ones of bench/results: mean and worst
error of the allocated peak, and of the reserved one where it was measured. That takes some four
minutes. With --write it also makes docs/accuracy.md anew, with the tests' checks against real CPU
steps, of the formula and of every bundled architecture: ten minutes more, and pytest is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

# bench and tests are not installed with the package; others install a package called tests
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.accuracy_page import page
from bench.accuracy_rows import Measured, Note, notes, own, published
from bench.accuracy_scores import Score, score
from bench.accuracy_tables import error_table, method_and_attention
from estimator.documents import write_atomic
from trainer.quiet import quiet_libraries

PAGE = Path(__file__).resolve().parent.parent / "docs" / "accuracy.md"


def main() -> None:
    """Score every measured step, print a table, and write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", default="", help="only rows of a GPU or method with this text")
    parser.add_argument("--json", type=Path, help="write every score to this file, one a line")
    parser.add_argument("--write", action="store_true", help="make docs/accuracy.md anew")
    arguments = parser.parse_args()
    if arguments.write and arguments.group:
        parser.error("--write scores every row: leave --group out")
    quiet_libraries()
    known = notes()
    steps = [step for step in (*published(), *own()) if arguments.group in _group(step)]
    scores = {step.id: _score(step, known.get(step.id)) for step in steps}
    if arguments.json:
        lines = [json.dumps(asdict(one)) + "\n" for one in scores.values()]
        arguments.json.write_text("".join(lines), encoding="utf-8")
    for is_apart, title in ((False, ""), (True, "\nKept apart: older libraries\n")):
        chosen = [one for one in scores.values() if one.is_apart == is_apart]
        if chosen:
            print(title + error_table("method, attention", chosen, method_and_attention))
    if arguments.write:
        _write(steps, scores, known)


def _group(step: Measured) -> str:
    return f"{step.plan.gpu_spec.name} {step.plan.method}"


def _score(step: Measured, note: Note | None) -> Score:
    print(f"reading {step.id}", file=sys.stderr)
    return score(step, note)


def _write(steps: list[Measured], scores: dict[str, Score], known: dict[str, Note]) -> None:
    # here, because they are the tests' and need what the tests need
    from bench.accuracy_checks import (
        cpu_truth,
        every_architecture,
        formula_sample,
        formula_summary,
    )

    print("reading what the CPU does", file=sys.stderr)
    truth = cpu_truth()
    print("reading plans drawn at random", file=sys.stderr)
    formula = formula_summary(formula_sample())
    print("reading every bundled architecture", file=sys.stderr)
    sweep = every_architecture()
    text = page(steps, scores, known, cpu_truth=truth, formula=formula, sweep=sweep)
    write_atomic(PAGE, text)


if __name__ == "__main__":
    main()

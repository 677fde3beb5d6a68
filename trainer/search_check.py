"""What would make a search fail, found before its first trial is begun."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from estimator.problems import Problem
from trainer.finetune_inputs import finetune_problems
from trainer.search_results import SearchRequest


def search_problems(request: SearchRequest) -> list[Problem]:
    """Return what is wrong with a search, its fine-tunes included, before hours are spent on it."""
    found = finetune_problems(request.finetune(request.plan))
    if request.plan.schedule.validation_fraction == 0 and not request.validation_path:
        what = "0 holds nothing out, and trials are compared by what none of them trained on"
        fix = "--set schedule.validation_fraction=0.1, or name a file: --validation FILE"
        found.append(Problem("schedule.validation_fraction", what, "more than 0", fix))
    return [*found, *_write_to(request)]


def _write_to(request: SearchRequest) -> Iterator[Problem]:
    if request.write_to is None:
        return
    path = Path(request.write_to)
    if request.in_place and not path.is_file():
        yield Problem("--in-place", f"{path} is no plan file")
    elif path.exists() and not request.in_place:
        fix = "name another file; --in-place changes the plan itself, and keeps a .bak"
        yield Problem(f"--write {path}", "exists already, and no plan is written over", fix=fix)
    elif not path.parent.is_dir():
        yield Problem(f"--write {path}", f"there is no folder {path.parent}", fix="make it first")

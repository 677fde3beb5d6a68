"""Dry runs one after another in one process, so that the libraries are imported once.

Each line on stdin is a request as :mod:`trainer.dryrun` takes it; each line on stdout answers one,
with ``estimate`` or with ``problems``. Where a dry run breaks, so does the process.
"""

from __future__ import annotations

import gc
import json
import sys
from dataclasses import asdict
from typing import Any

from estimator.plan import parse_plan
from estimator.problems import InputError
from trainer.dryrun import dry_run
from trainer.quiet import quiet_libraries


def main() -> None:
    """Answer requests until stdin ends."""
    quiet_libraries()
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()
        gc.collect()  # the last model's fake tensors refer to one another


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        estimate = dry_run(parse_plan(request["plan"]), device=request["device"])
    except InputError as error:
        return {"problems": [asdict(problem) for problem in error.problems]}
    return {"estimate": estimate.to_document()}


if __name__ == "__main__":
    main()

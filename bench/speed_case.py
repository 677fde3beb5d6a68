"""One dry run in a process of its own, for bench/speed.py.

Reads {"plan", "whole", "repeats"} on stdin and prints the seconds of each dry run, by the clock and
of the processor. With ``warm_up``, the plan of another dry run, that one is made first and not
timed: it imports what the libraries import late.
"""

from __future__ import annotations

import gc
import json
import sys
import time

from estimator.plan import parse_plan
from trainer.dryrun import dry_run
from trainer.quiet import quiet_libraries


def main() -> None:
    """Answer the one request."""
    quiet_libraries()
    request = json.load(sys.stdin)
    plan, whole = parse_plan(request["plan"]), request["whole"]
    if warm_up := request.get("warm_up"):
        dry_run(parse_plan(warm_up))
    took = []
    for _ in range(request["repeats"]):
        gc.collect()
        begin, before = time.perf_counter(), time.process_time()
        dry_run(plan, whole=whole)
        took.append((time.perf_counter() - begin, time.process_time() - before))
    print(json.dumps(took))


if __name__ == "__main__":
    main()

"""One try of a micro-batch, in a process of its own: the next one must not inherit its memory.

Run as a program it reads a probe's request (JSON) on stdin and prints what came of it (JSON) on
stdout.
"""

from __future__ import annotations

import sys
from typing import Any

from trainer.measure import NUM_OBSERVED_STEPS, Watchers
from trainer.quiet import quiet_libraries
from trainer.real_steps import set_up, take_steps
from trainer.results import BatchTry, OutOfMemory, ProbeRequest


def try_batch(request: ProbeRequest) -> BatchTry:
    """Take two steps of a plan at its full shape, which is where its memory peaks.

    Raises:
        InputError: The plan, the model, the data or the device cannot be used.
    """
    done: list[dict[str, Any]] = []

    def has_seen_enough() -> bool:
        return len(done) >= NUM_OBSERVED_STEPS

    # On CUDA the two are unwatched ones, on a CPU the watched ones: none comes after them.
    longer = request.model_copy(update={"num_steps": 2 * NUM_OBSERVED_STEPS})
    taken = take_steps(set_up(longer), Watchers(done.append, lambda _: None, has_seen_enough))
    size = request.plan.micro_batch_size
    if isinstance(taken, OutOfMemory):
        asked = taken.requested_bytes
        return BatchTry(
            micro_batch_size=size, ran=False, requested_bytes=asked, reason=taken.message
        )
    return BatchTry(
        micro_batch_size=size,
        ran=True,
        peak_allocated_bytes=taken.measurement.peak_allocated_bytes,
        peak_reserved_bytes=taken.measurement.peak_reserved_bytes,
    )


def main() -> int:
    """Read a request on stdin, print the try on stdout."""
    quiet_libraries()
    request = ProbeRequest.model_validate_json(sys.stdin.read())
    sys.stdout.write(try_batch(request).model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())

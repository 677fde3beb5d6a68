"""Takes the steps of plans for real and tells the CPU allocator's own peak of each, as PyTorch's
profiler sees it: a witness that shares nothing with the recorder.

Reads one plan (JSON) a line and prints one peak (bytes) a line, in order:
python tests/profiled_steps.py < plans.jsonl. Each plan runs in a fork of its own, because the
profiler's counter carries over; the libraries are imported once.
"""

import json
import os
import sys
import traceback
import warnings

warnings.filterwarnings("ignore")

import torch  # noqa: E402  after the filter: the libraries warn while they are imported
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from estimator.models import resolve_model  # noqa: E402
from estimator.plan import FineTunePlan, parse_plan  # noqa: E402
from trainer.build import build_training, prepare  # noqa: E402
from trainer.data import random_batches  # noqa: E402
from trainer.skeleton import build_skeleton, transformers_config  # noqa: E402
from trainer.step import StepHooks, training_step  # noqa: E402
from trainer.weights import fill_at_random  # noqa: E402


def take_steps(plan: FineTunePlan) -> None:
    """Build the plan's training and take its first two steps, as the dry run does."""
    device = torch.device("cpu")
    config = transformers_config(resolve_model(plan.model).config, plan.model)
    base = build_skeleton(plan, config, plan.model)
    fill_at_random(base, plan, device)
    training = build_training(prepare(base, plan), plan, on_cuda=False)
    batches = random_batches(plan, config.get_text_config().vocab_size, device)
    for number in (1, plan.micro_steps_taken):
        training_step(training, batches, num_micro_steps=number, on_cuda=False, hooks=StepHooks())


def allocations(event: object) -> list[int]:
    """Return the process's total after each allocation below an event of the tree."""
    own = [event.typed[1].total_allocated] if "Alloc" in str(event.tag) else []  # type: ignore[attr-defined]  torch's C++ event
    return own + [total for child in event.children for total in allocations(child)]  # type: ignore[attr-defined]


def witnessed_peak(plan: FineTunePlan) -> int:
    """Return the allocator's peak over the plan's steps, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        take_steps(plan)
    roots = profiled.profiler.kineto_results.experimental_event_tree()
    return max(total for root in roots for total in allocations(root))


def in_a_fork(plan: FineTunePlan) -> int:
    """Return the peak as a fork of this process witnesses it; if the fork dies, so do we."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with os.fdopen(writer, "w") as answer:
                answer.write(str(witnessed_peak(plan)))
            status = 0
        except Exception:  # noqa: BLE001  whatever it is, it must not run on in the parent's place
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit(f"the witness of {plan.to_document()} died")
    return int(text)


for line in sys.stdin:
    sys.stdout.write(f"{in_a_fork(parse_plan(json.loads(line)))}\n")
    sys.stdout.flush()

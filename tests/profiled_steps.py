"""Takes the steps of a plan for real and prints the CPU allocator's own peak, as PyTorch's
profiler sees it: a witness that shares nothing with the recorder. Run in a process of its own,
because the profiler's counter carries over: python tests/profiled_steps.py < plan.json
"""

import json
import sys
import warnings

warnings.filterwarnings("ignore")

import torch  # noqa: E402  after the filter: the libraries warn while they are imported
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from estimator.models import resolve_model  # noqa: E402
from estimator.plan import parse_plan  # noqa: E402
from trainer.build import build_training, prepare  # noqa: E402
from trainer.data import random_batches  # noqa: E402
from trainer.skeleton import build_skeleton, transformers_config  # noqa: E402
from trainer.step import StepHooks, training_step  # noqa: E402
from trainer.weights import fill_at_random  # noqa: E402

plan = parse_plan(json.load(sys.stdin))
device = torch.device("cpu")
config = transformers_config(resolve_model(plan.model).config, plan.model)
with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
    base = build_skeleton(plan, config, plan.model)
    fill_at_random(base, plan, device)
    training = build_training(prepare(base, plan), plan, on_cuda=False)
    batches = random_batches(plan, config.vocab_size, device)
    for number in (1, plan.micro_steps_taken):
        training_step(training, batches, num_micro_steps=number, on_cuda=False, hooks=StepHooks())


def allocations(event: object) -> list[int]:
    """Return the process's total after each allocation below an event of the tree."""
    own = [event.typed[1].total_allocated] if "Alloc" in str(event.tag) else []  # type: ignore[attr-defined]  torch's C++ event
    return own + [total for child in event.children for total in allocations(child)]  # type: ignore[attr-defined]


roots = profiled.profiler.kineto_results.experimental_event_tree()
sys.stdout.write(json.dumps(max(total for root in roots for total in allocations(root))))

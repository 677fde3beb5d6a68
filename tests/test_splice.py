"""A short model's trace grown to the whole one's: by hand, and beside every layer being run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from estimator.models import resolve_model
from estimator.plan import FineTunePlan, parse_plan
from estimator.splice import KEPT_UNITS, NotAlike, Pass, Stretch, splice
from estimator.trace import FLUSH, Trace
from trainer.build import prepare
from trainer.dryrun import trace_step
from trainer.short_model import decoder_layers, find_repetition
from trainer.skeleton import build_skeleton, transformers_config

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")


def by_hand(
    num_units: int,
    num_stand_ins: int = 0,
    *,
    sizes: dict[int, int] | None = None,
    lag: int = 1,
    immortal: int | None = None,
) -> tuple[Trace, list[Stretch]]:
    """Return two micro-batches through some units and the optimizer's phase, and its stretches.

    Args:
        num_units: Units that are run.
        num_stand_ins: Units that are not run, but whose gradients the optimizer sees.
        sizes: Bytes of a unit's activation where they are not those of the others.
        lag: After how many units a unit's hidden states die.
        immortal: A unit whose gradient nobody lets go of.
    """
    trace, stretches = Trace(), [Stretch(0)]

    def enter(unit: int | None = None, way: Pass | None = None) -> None:
        stretches.append(Stretch(len(trace.events), unit, way))

    trace.mark("load")
    trace.born(1000, "weights")
    trace.flushed()
    gradients: dict[int, int] = {}
    for number in (1, 2):
        enter()
        trace.mark("forward")
        hidden = [trace.born(64)]
        activations = []
        for unit in range(num_units):
            enter(unit, Pass(number, is_backward=False))
            activations.append(trace.born((sizes or {}).get(unit, 80), "activations"))
            passing = trace.born(30)
            hidden.append(trace.born(64))
            if len(hidden) > lag:
                trace.died(hidden[-1 - lag])
            trace.died(passing)
        enter()
        logits = trace.born(500, "logits")
        trace.outputs.add(logits)
        for left in hidden[-lag:]:
            trace.died(left)
        trace.mark("backward")
        arriving = trace.born(64)
        for unit in reversed(range(num_units)):
            enter(unit, Pass(number, is_backward=True))
            leaving, gradient = trace.born(64), trace.born(100, "gradients")
            trace.died(arriving)
            trace.died(activations[unit])
            arriving = leaving
            if number == 1:
                gradients[unit] = gradient
            else:
                trace.died(gradient)
        enter()
        trace.died(arriving)
        trace.died(logits)
    stand_ins = [trace.born(100, "gradients") for _ in range(num_stand_ins)]
    trace.stand_ins.update(stand_ins)
    trace.mark("optimizer")
    for _ in range(num_units + num_stand_ins):
        trace.born(200, "optimizer_states")
    for gradient in [*(gradients[unit] for unit in gradients if unit != immortal), *stand_ins]:
        trace.died(gradient)
    trace.mark("forward")
    return trace, stretches


def said(trace: Trace) -> dict[str, Any]:
    """What a trace says, but for the order within a run of deaths, which nothing depends on."""
    marked = {at for at, _ in trace.marks}
    runs: list[list[int]] = []
    goes_on = False
    for index, event in enumerate(trace.events):
        is_death = event < 0 and event != FLUSH
        if not (goes_on and is_death) or index in marked:
            runs.append([])
        runs[-1].append(event)
        goes_on = is_death
    return {
        "sizes": trace.sizes,
        "components": trace.components,
        "marks": trace.marks,
        "outputs": trace.outputs,
        "stand_ins": trace.stand_ins,
        "events": [event for run in runs for event in sorted(run)],
    }


@pytest.mark.parametrize("num_left_out", [1, 2, 26])
@pytest.mark.parametrize("odd_units", [(), (0,), (KEPT_UNITS - 1,), (0, KEPT_UNITS - 1)])
def test_units_in_between_are_written_as_if_they_had_been_run(
    num_left_out: int, odd_units: tuple[int, ...]
) -> None:
    short, stretches = by_hand(KEPT_UNITS, num_left_out, sizes=dict.fromkeys(odd_units, 96))
    moved = [unit + num_left_out if unit else 0 for unit in odd_units]
    whole, _ = by_hand(KEPT_UNITS + num_left_out, sizes=dict.fromkeys(moved, 96))
    assert said(splice(short, stretches, num_left_out)) == said(whole)


@pytest.mark.parametrize(
    ("quirk", "says"),
    [
        ({"sizes": {3: 96}}, "differ in what they do"),
        ({"sizes": {2: 96}}, "differ in what they do"),
        ({"sizes": {1: 96}}, "differ in what they make"),
        ({"sizes": {4: 96}}, "differ in what they make"),
        ({"lag": 2}, "not its own or its neighbours'"),
        ({"immortal": 3}, "what outlives the layers differs"),
    ],
    ids=str,
)
def test_units_that_are_not_alike_stand_for_none(quirk: dict[str, Any], says: str) -> None:
    short, stretches = by_hand(KEPT_UNITS, 2, **quirk)
    with pytest.raises(NotAlike, match=says):
        splice(short, stretches, 2)


LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "vocab_size": 256,
}
GEMMA = LLAMA | {
    "model_type": "gemma3_text",
    "num_hidden_layers": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 8,
    "sliding_window": 32,
}
PLAIN = {"gradient_checkpointing": False, "gradient_accumulation_steps": 1}
FP32_AUTOCAST = {"weights_dtype": "fp32", "autocast_dtype": "bf16"}


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (LLAMA, {"method": "lora"}),
        (LLAMA, {"method": "full"} | PLAIN | FP32_AUTOCAST),
        (LLAMA, {"method": "full", "optimizer": "adamw_8bit", "attention": "eager"} | PLAIN),
        (LLAMA | {"num_hidden_layers": 10}, {"method": "last_layers", "num_trained_layers": 2}),
        (GEMMA, {"method": "full"} | PLAIN),
    ],
    ids=lambda value: value.get("model_type") or " ".join(map(str, value.values())),
)
def test_the_spliced_trace_is_that_of_all_layers(
    tmp_path: Path, config: dict[str, Any], keys: dict[str, Any]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    step = {"micro_batch_size": 2, "gradient_accumulation_steps": 2, "seq_len": 64}
    plan = parse_plan({"model": str(tmp_path)} | step | keys)
    short, whole = (trace_step(plan, whole=whole) for whole in (False, True))
    assert said(short.trace) == said(whole.trace)
    assert short.counts == whole.counts
    assert num_left_out(plan) == 2, "nothing was left out, and nothing tested"


def num_left_out(plan: FineTunePlan) -> int:
    """How many units of a plan's model are not run."""
    config = transformers_config(resolve_model(plan.model).config, plan.model)
    layers = decoder_layers(prepare(build_skeleton(plan, config, plan.model), plan))
    repetition = find_repetition(layers) if layers is not None else None
    return repetition.num_left_out if repetition else 0

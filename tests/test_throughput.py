"""Time: the arithmetic is the textbook's, and published steps lie in the range."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from commands.readings import with_outlook
from estimator.memory import read_formula
from estimator.plan import FineTunePlan, parse_plan
from estimator.throughput import COVERAGE, Throughput, read_throughput
from reports.terminal_time import outlook

PUBLISHED = Path(__file__).resolve().parents[1] / "bench" / "published"
LLAMA = "meta-llama/Llama-2-7b-hf"
TABLE = 32_000 * 4096  # Llama-2's embeddings: looked up, not multiplied


def plan(**keys: object) -> FineTunePlan:
    known = {"model": LLAMA, "method": "full", "gpu": "A100 80GB SXM", "seq_len": 2048}
    return parse_plan(known | keys)


def read(**keys: object) -> Throughput:
    return read_throughput(plan(**keys))


def matrix_flops(time: Throughput) -> int:
    """All but attention's own products."""
    return sum(n for part, n in time.flops_per_step.items() if not part.startswith("attention"))


@pytest.mark.parametrize(("checkpointing", "per_weight"), [(False, 6), (True, 8)])
def test_full_training_takes_six_operations_a_weight_and_token_and_eight_with_recompute(
    checkpointing: bool, per_weight: int
) -> None:
    time = read(gradient_checkpointing=checkpointing)
    multiplied = 6_738_415_616 - TABLE - 65 * 4096  # the norms' weights are not multiplied either
    tokens = 16 * 2048
    recomputed_head = 2 * TABLE * tokens if checkpointing else 0  # the head is not checkpointed
    assert matrix_flops(time) == per_weight * multiplied * tokens - recomputed_head
    assert time.tokens_per_step == tokens
    assert time.total_flops_per_step == sum(time.flops_per_step.values())


def test_lora_leaves_out_the_weights_gradients_and_adds_its_adapters() -> None:
    full = read(gradient_checkpointing=False)
    lora = read(method="lora", gradient_checkpointing=False)
    frozen = {part: n for part, n in lora.flops_per_step.items() if "adapters" not in part}
    assert frozen["linears_backward"] * 2 == full.flops_per_step["linears_backward"]
    assert lora.flops_per_step["adapters_forward"] == 2 * 39_976_960 * lora.tokens_per_step
    assert "linears_recompute" not in lora.flops_per_step


def test_the_last_layers_alone_are_taken_back() -> None:
    full, last = read(), read(method="last_layers", num_trained_layers=2)
    assert last.flops_per_step["linears_backward"] * 16 == full.flops_per_step["linears_backward"]
    assert last.flops_per_step["linears_recompute"] * 16 == full.flops_per_step["linears_recompute"]
    assert last.flops_per_step["linears_forward"] == full.flops_per_step["linears_forward"]


def test_eager_attention_computes_the_whole_square_and_a_window_less_than_half() -> None:
    flash, eager = read(), read(attention="eager")
    half = eager.flops_per_step["attention_forward"] / 2
    assert flash.flops_per_step["attention_forward"] == pytest.approx(half, rel=1e-3)
    long = {"model": "mistralai/Mistral-7B-v0.1", "seq_len": 16_384, "method": "lora"}
    windowed = read(**long)
    whole = read(**long | {"model": "mistralai/Mistral-7B-Instruct-v0.2"})
    share = windowed.flops_per_step["attention_forward"] / whole.flops_per_step["attention_forward"]
    assert share == pytest.approx(1 - (1 - 4096 / 16_384) ** 2, rel=1e-3)


def test_a_mixture_multiplies_only_the_experts_that_a_token_takes() -> None:
    time = read(model="mistralai/Mixtral-8x7B-Instruct-v0.1", gradient_checkpointing=False)
    active = 12_879_925_248  # as the catalogue counts them
    per_token = matrix_flops(time) / time.tokens_per_step
    assert per_token == pytest.approx(6 * (active - TABLE), rel=1e-3)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_longer_sequences_take_longer(method: str) -> None:
    times = [read(method=method, seq_len=2**power).step_seconds for power in range(6, 15)]
    likely = [time.likely for time in times if time]
    assert len(likely) == 9
    assert likely == sorted(likely)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_range_is_in_order(attention: str) -> None:
    time = read(method="qlora", attention=attention, data={"num_examples": 1000})
    for span in (time.step_seconds, time.tokens_per_second, time.hours):
        assert span is not None
        assert 0 < span.low < span.likely < span.high


def test_the_whole_run_needs_the_number_of_examples() -> None:
    assert read().hours is None
    time = read(data={"num_examples": 1000}, epochs=3)
    assert time.num_steps == 171  # three times 900 examples in steps of 16: 100 are held out
    assert time.hours
    assert time.step_seconds
    assert time.hours.likely == pytest.approx(171 * time.step_seconds.likely / 3600)
    shorter = read(data={"num_examples": 1000, "tokens_per_example": 512}, epochs=3)
    # packed, they fill a quarter of the rows; the last step of an epoch is not full
    assert shorter.num_steps == 45


def test_what_is_not_known_is_none_with_the_reason() -> None:
    bare = read(gpu={"name": "Mystery", "memory_gib": 80})
    assert bare.step_seconds is None
    assert "bandwidth of Mystery" in bare.unknown
    assert bare.total_flops_per_step
    described = {"name": "Mine", "memory_gib": 80, "bandwidth_gb_per_second": 2000}
    assert "bf16 rate of Mine" in read(gpu=described).unknown
    assert read(gpu=described | {"bf16_dense_tflops": 300}).unknown == ""


def test_a_model_whose_layers_are_not_described_goes_by_its_active_parameters() -> None:
    time = read(model="deepseek-ai/DeepSeek-V3", method="lora", gradient_checkpointing=False)
    assert time.total_flops_per_step
    assert any("parameters that one token uses" in text for text in time.assumptions)


def published_steps(folder: Path) -> Iterator[tuple[FineTunePlan, float]]:
    """Yield every published step and its seconds."""
    for row in lines(PUBLISHED / "runs.jsonl"):
        step = parse_plan(row["plan"] | {"model": str(PUBLISHED / "models" / row["plan"]["model"])})
        seconds = row.get("step_seconds")
        yield step, seconds or step.tokens_per_micro_batch / row["tokens_per_second"]
    for row in lines(PUBLISHED / "step_seconds.jsonl"):
        config = folder / row["id"] / "config.json"
        config.parent.mkdir()
        config.write_text(json.dumps(row["config"]))
        yield parse_plan(row["plan"] | {"model": str(config)}), row["step_seconds"]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_published_steps_lie_in_the_range(tmp_path: Path) -> None:
    inside, errors = 0, list[float]()
    for step, measured in published_steps(tmp_path):
        span = read_throughput(step).step_seconds
        assert span is not None
        inside += span.low <= measured <= span.high
        errors.append(abs(measured / span.likely - 1))
    assert len(errors) == 44
    assert sorted(errors)[22] < 0.2  # the median
    assert COVERAGE.startswith(f"Of {len(errors)} steps")
    assert f"{inside} lie in the range" in COVERAGE


def test_the_terminal_shows_it_in_80_columns() -> None:
    reading = read_formula(plan(method="qlora", data={"num_examples": 5000}))
    document = with_outlook(reading)
    assert document["time"]["step_seconds"]["likely"] > 0
    assert document["other_peaks"]["largest"] == "training"
    shown = io.StringIO()
    Console(file=shown, width=80).print(outlook(reading))
    text = shown.getvalue()
    assert "Time on A100 80GB SXM: about" in text
    assert "846 steps take" in text
    assert "an evaluation batch" in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_it_needs_no_torch() -> None:
    code = "import sys, estimator.throughput, estimator.other_peaks; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"

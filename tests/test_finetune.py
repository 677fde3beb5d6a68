"""Whole fine-tunes for real: every method, saved, loaded again, killed and taken up."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from estimator.plan import FineTunePlan, load_plan
from estimator.problems import InputError
from trainer import launch
from trainer.evaluate import ROOM_AFTER_REFERENCE_TOKENS
from trainer.example_formats import Example
from trainer.examples import open_examples
from trainer.finetune import run_finetune
from trainer.finetune_job import Onlooker, held_out_of
from trainer.finetune_results import FineTuneRequest, FineTuneResult
from trainer.generate import generate, prompt_tokens
from trainer.run_writer import RunWriter, create_run
from trainer.runs import Run
from trainer.saved_model import load_saved
from trainer.training_callback import Diverged

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*:FutureWarning"),  # peft asks transformers an old question
    pytest.mark.filterwarnings("ignore:Position ids are not supported"),  # of virtual tokens
]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CPU = torch.device("cpu")

METHODS = {
    "full": ["method=full"],
    "last_layers": ["method=last_layers", "num_trained_layers=2"],
    "bitfit": ["method=bitfit", "schedule.learning_rate=0.01"],
    "lora": ["method=lora", "adapter.dropout=0.1"],
    "dora": ["method=lora", "adapter.use_dora=true"],
    "rslora": ["method=lora", "adapter.use_rslora=true"],
    "qlora nf4": ["method=qlora"],
    "qlora fp4": ["method=qlora", "quantization=fp4", "double_quant=false"],
    "int8": ["method=lora", "quantization=int8"],
    "prompt_tuning": ["method=prompt_tuning", "schedule.learning_rate=0.1"],
    "prefix_tuning": ["method=prefix_tuning", "schedule.learning_rate=0.1"],
    "ia3": ["method=ia3", "schedule.learning_rate=0.02"],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten questions: two are held out."""
    path = tmp_path_factory.mktemp("data") / "ten.jsonl"
    lines = (EXAMPLES / "questions.jsonl").read_text().splitlines()
    path.write_text("\n".join(lines[1:20:2]) + "\n")
    return path


@pytest.fixture(scope="module")
def biased_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama with biases, which BitFit needs: they begin at zero."""
    folder = tmp_path_factory.mktemp("model") / "tiny-llama"
    config = LlamaConfig.from_pretrained(EXAMPLES / "tiny-llama")
    config.attention_bias = config.mlp_bias = True
    model = LlamaForCausalLM(config)
    model.load_state_dict(load_file(EXAMPLES / "tiny-llama" / "model.safetensors"), strict=False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    model.save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).write_text((EXAMPLES / "tiny-llama" / file).read_text())
    return folder


def plan_for(data: Path, *overrides: str) -> FineTunePlan:
    settings = [
        f"data.path={data}",
        "padded=true",
        "seq_len=96",
        "micro_batch_size=4",
        "gradient_accumulation_steps=1",
        "epochs=3",
        "gradient_checkpointing=false",
        "schedule.validation_fraction=0.2",
        "schedule.learning_rate=0.003",
        "schedule.warmup_ratio=0",
        "schedule.evaluations_per_epoch=1",
    ]
    return load_plan(EXAMPLES / "tiny.yaml", [*settings, *overrides])


def finetune(
    plan: FineTunePlan, run: Run | None = None, *, validation: Path | None = None
) -> tuple[Run, FineTuneResult]:
    """Fine-tune in this process, and leave in the run's folder what a worker would."""
    held_out = str(validation) if validation else None
    request = FineTuneRequest(plan=plan, device="cpu", validation_path=held_out)
    run = run or create_run(request)
    writer = RunWriter(run.folder)
    onlooker = Onlooker(
        on_activity=lambda _: None,
        on_row=writer.metric,
        on_num_steps=lambda _: None,
        should_stop=writer.stop_requested,
    )
    return run, run_finetune(request, run.folder, CPU, onlooker)


def epoch_losses(run: Run) -> list[float]:
    """Mean training loss of each epoch: over the same examples, so they can be compared."""
    rows = [row for row in run.metrics() if "validation_loss" not in row]
    epochs = {int(-(-row["epoch"] // 1)) for row in rows}
    return [mean(r["loss"] for r in rows if -(-r["epoch"] // 1) == epoch) for epoch in epochs]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_is_saved_and_says_the_same_when_loaded_again(
    method: str, data: Path, request: pytest.FixtureRequest
) -> None:
    overrides = METHODS[method]
    if method == "bitfit":
        overrides = [*overrides, f"model={request.getfixturevalue('biased_model')}"]
    run, result = finetune(plan_for(data, *overrides))
    assert result.num_steps == result.total_steps >= 6
    losses = epoch_losses(run)
    assert losses[-1] < losses[0]
    assert result.comparison is not None
    folder = run.folder / "model"
    assert list(folder.glob("*.safetensors"))
    assert not [*folder.glob("*.bin"), *folder.glob("*.pt")]
    plan = result.plan.to_document()
    plan["data"]["format"] = result.data.format  # as it was found to be
    assert json.loads((folder / "plan.json").read_text()) == plan
    assert result.data.fingerprint in (folder / "README.md").read_text()

    model, tokenizer = load_saved(folder, device=CPU)
    samples = result.comparison.after.samples
    for example, told in zip(held_out(data, result.plan), samples, strict=True):
        room = len(tokenizer(example.completion)["input_ids"]) + ROOM_AFTER_REFERENCE_TOKENS
        with torch.autocast("cpu", torch.bfloat16):
            prompt = prompt_tokens(tokenizer, example)
            answer = generate(model, tokenizer, prompt, max_new_tokens=room)
        assert answer.text == told.output


def held_out(data: Path, plan: FineTunePlan) -> list[Example]:
    return list(held_out_of(open_examples(str(data)), plan.schedule))


def test_a_killed_fine_tune_goes_on_as_if_nothing_had_happened(data: Path) -> None:
    plan = plan_for(data, "adapter.dropout=0.1", "epochs=4", "micro_batch_size=2")
    straight, _ = finetune(plan)

    run = launch.start(FineTuneRequest(plan=plan, device="cpu"))
    until(lambda: run.status().step >= 9)
    pid = run.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: run.status().state == "failed")
    before = run.metrics()
    launch.resume(run)
    assert launch.wait(run).state == "finished"
    assert figures(run) == figures(straight)
    assert run.metrics()[: len(before)][0] == before[0]  # what was measured stays
    assert run.metrics() != before


def figures(run: Run) -> list[tuple[int, float | None, float | None]]:
    return [(row["step"], row.get("loss"), row.get("validation_loss")) for row in run.metrics()]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_stopped_fine_tune_keeps_what_it_has_learned_and_goes_on(data: Path) -> None:
    plan = plan_for(data, "epochs=3")
    request = FineTuneRequest(plan=plan, device="cpu")
    run = create_run(request)
    writer = RunWriter(run.folder)

    def on_row(row: dict) -> None:
        writer.metric(row)
        if row["step"] == 2:
            run.request_stop()

    onlooker = Onlooker(lambda _: None, on_row, lambda _: None, writer.stop_requested)
    stopped = run_finetune(request, run.folder, CPU, onlooker)
    assert stopped.stopped_early
    assert stopped.num_steps < stopped.total_steps
    assert (run.folder / "model" / "adapter_model.safetensors").exists()
    (run.folder / "stop").unlink()
    _, result = finetune(plan, run)
    straight, _ = finetune(plan)
    assert not result.stopped_early
    assert figures(run) == figures(straight)


def test_training_ends_early_where_the_validation_loss_falls_no_more(data: Path) -> None:
    plan = plan_for(
        data,
        "method=full",
        "epochs=12",
        "schedule.learning_rate=0.02",
        "schedule.early_stopping_patience=2",
    )
    _, result = finetune(plan)
    assert result.num_steps < result.total_steps
    assert "has not fallen since" in result.ended
    losses = {one.step: one.loss for one in result.validations}
    assert result.best_step == min(losses, key=lambda step: losses[step])
    # what is kept is the best step's, not the last one's
    assert result.comparison is not None
    kept = result.comparison.after.validation_loss
    assert kept == pytest.approx(losses[result.best_step], rel=1e-5)
    assert kept < result.validations[-1].loss


def test_a_damaged_checkpoint_is_passed_over(data: Path) -> None:
    plan = plan_for(data, "epochs=3", "schedule.early_stopping_patience=null")
    run, _ = finetune(plan)
    straight = figures(run)
    newest = max((run.folder / "checkpoints").iterdir(), key=lambda p: int(p.name.split("-")[1]))
    weights = newest / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 255]))
    _, result = finetune(plan, run)
    assert any(newest.name in note and "damaged" in note for note in result.notes)
    assert figures(run) == straight


def test_a_loss_that_is_no_number_ends_the_run(data: Path) -> None:
    plan = plan_for(data, "method=full", "schedule.learning_rate=10", "max_grad_norm=null")
    with pytest.raises(Diverged, match="the loss is nan at step"):
        finetune(plan)


def test_a_fine_tune_without_data_is_refused() -> None:
    plan = load_plan(EXAMPLES / "tiny.yaml", ["data={}"])
    with pytest.raises(InputError, match="needs examples"):
        finetune(plan)


def test_no_step_is_lost_to_the_warm_up(data: Path) -> None:
    run, result = finetune(plan_for(data, "epochs=0.1", "schedule.warmup_ratio=0.03"))
    assert result.total_steps == 1
    assert [row["learning_rate"] for row in run.metrics() if "loss" in row] == [0.003]


def test_examples_held_out_that_are_trained_on_are_noticed(data: Path, tmp_path: Path) -> None:
    lines = data.read_text().splitlines()
    half = tmp_path / "half.jsonl"
    half.write_text("\n".join([lines[0], '{"prompt": "What is new?", "completion": "This."}']))
    plan = plan_for(data, "epochs=1")
    _, result = finetune(plan, validation=half)
    assert any("1 of 2 different examples held out" in note for note in result.notes)
    with pytest.raises(InputError, match="all of its examples are trained on"):
        finetune(plan, validation=data)

"""What a search tries, gives up and remembers: a real study, fed recorded losses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import tuneplan
from estimator.plan import FineTunePlan, load_plan
from estimator.problems import InputError
from trainer import search_study
from trainer.evaluation_results import Evaluation, Piece
from trainer.machine import LocalGpu, describe_machine
from trainer.results import Device
from trainer.run_writer import RunWriter, create_run
from trainer.search import run_search
from trainer.search_plan import write_best
from trainer.search_results import Dimension, Parameters, SearchRequest, SearchResult, Trial
from trainer.search_space import own_parameters, plan_with, search_space, typed
from trainer.search_trials import too_large
from trainer.search_verdict import sentence

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# Validation losses of six fine-tunes of the bundled tiny model, three evaluations an epoch.
CURVES = (
    [3.402, 3.391, 3.380],
    [3.412, 3.380, 3.345, 3.318, 3.300, 3.292],
    [3.310, 3.121, 3.045],
    [3.251, 2.990, 2.890],
    [3.399, 3.372, 3.342, 3.335, 3.330, 3.329],
    [3.266, 2.981, 2.904],
)


def plan_of(*overrides: str) -> FineTunePlan:
    return load_plan(EXAMPLES / "tiny.yaml", overrides)


def request_for(
    *asked: str, num_trials: int = 6, device: Device = "cpu", plan: FineTunePlan | None = None
) -> SearchRequest:
    plan = plan or plan_of()
    return SearchRequest(
        plan=plan, searched=search_space(plan, asked), num_trials=num_trials, device=device, seed=7
    )


def run_trials(folder: Path, request: SearchRequest, number: int) -> list[Parameters]:
    """Take trials along the recorded curves, and return what was tried."""
    folder.mkdir(exist_ok=True)
    study = search_study.open_study(folder, request, request.searched)
    tried = []
    for _ in range(number):
        trial = search_study.next_trial(study, request)
        curve = CURVES[trial.number % len(CURVES)]
        given_up = [search_study.should_prune(trial, curve[:k]) for k in range(1, len(curve) + 1)]
        seen = curve[: given_up.index(True) + 1] if True in given_up else curve
        record = Trial(
            number=trial.number + 1,
            parameters=search_study.parameters_of(trial),
            state="pruned" if True in given_up else "completed",
            validation_loss=min(seen),
        )
        search_study.tell(study, trial, record)
        tried.append(record.parameters)
    return tried


def test_the_same_seed_tries_the_same_also_after_an_interruption(tmp_path: Path) -> None:
    request = request_for()
    straight = run_trials(tmp_path / "straight", request, 4)
    first = run_trials(tmp_path / "cut", request, 2)
    assert first + run_trials(tmp_path / "cut", request, 2) == straight
    assert straight[0] == own_parameters(request.plan, request.searched)
    assert len({tuple(one.items()) for one in straight}) == 4
    other = request.model_copy(update={"seed": 8})
    assert run_trials(tmp_path / "other", other, 2)[1] != straight[1]


def test_what_is_worse_than_half_of_the_others_is_given_up_and_all_is_remembered(
    tmp_path: Path,
) -> None:
    request = request_for()
    run_trials(tmp_path, request, 6)
    study = search_study.open_study(tmp_path, request, request.searched)
    trials = search_study.trials_of(study)
    assert [one.state for one in trials] == [
        *("completed",) * 4,
        "pruned",
        "completed",
    ]
    # not by the first validation, amid the warm-up, but by the second
    assert trials[4].validations[:2] == (3.399, 3.372)
    assert trials[3].validation_loss == 2.890
    assert search_study.importance(study) is None  # six trials say nothing about that
    run_trials(tmp_path, request, 6)
    shares = search_study.importance(study)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1)


def test_lists_are_tried_each_combination_once(tmp_path: Path) -> None:
    request = request_for("learning_rate=1e-3", "adapter.r=4,16", "epochs=1..3", num_trials=20)
    study = search_study.open_study(tmp_path, request, request.searched)
    assert search_study.most_trials(study, request) == 6
    tried = run_trials(tmp_path, request, 6)
    assert {(one["adapter.r"], one["epochs"]) for one in tried} == {
        (rank, epochs) for rank in (4, 16) for epochs in (1, 2, 3)
    }


def test_a_trial_that_was_running_is_found_again(tmp_path: Path) -> None:
    request = request_for()
    study = search_study.open_study(tmp_path, request, request.searched)
    asked = search_study.next_trial(study, request)
    study.ask()  # killed before anything was drawn
    again = search_study.open_study(tmp_path, request, request.searched)
    first, second = search_study.left_running(again, request)
    assert search_study.parameters_of(first) == search_study.parameters_of(asked)
    assert set(second.params) == {"learning_rate", "adapter.r", "epochs"}


@pytest.mark.parametrize(
    ("method", "rates", "keys"),
    [
        ("lora", (2e-5, 2e-3), ("learning_rate", "adapter.r", "epochs")),
        ("full", (2e-6, 2e-4), ("learning_rate", "epochs")),
        ("ia3", (3e-4, 3e-2), ("learning_rate", "epochs")),
    ],
)
def test_each_method_has_its_own_range(
    method: str, rates: tuple[float, float], keys: tuple[str, ...]
) -> None:
    plan = plan_of(f"method={method}", "schedule.learning_rate=null")
    found = search_space(plan)
    assert tuple(one.key for one in found) == keys
    assert (found[0].low, found[0].high) == rates
    assert (found[-1].low, found[-1].high) == (1, 3)


def test_alpha_goes_with_the_rank() -> None:
    adapter = plan_with(plan_of(), {"adapter.r": 64}).adapter
    assert (adapter.r, adapter.alpha) == (64, 128)
    adapter = plan_with(plan_of("adapter.use_rslora=true"), {"adapter.r": 64}).adapter
    assert (adapter.r, adapter.alpha) == (64, 64)


def test_what_is_typed_is_what_is_searched() -> None:
    asked = ("learning_rate=1e-05..0.001", "adapter.r=4,8,16", "epochs=1..4")
    assert tuple(map(typed, search_space(plan_of(), asked))) == asked
    ranks = search_space(plan_of(), ["adapter.r=3..33"])[1]
    assert ranks == Dimension(key="adapter.r", values=(4, 8, 16, 32))


TINY = str(EXAMPLES / "tiny.yaml")
DATA = ("--data", str(EXAMPLES / "questions.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--search", "learning_rat=1..2"], "did you mean learning_rate?"),
        (["--search", "epochs"], "does not say what to try"),
        (["--search", "epochs=many"], "'many' is no number"),
        (["--search", "epochs=4..2"], "4 is not below 2"),
        (["--search", "epochs=1..2.5"], "goes in whole ones"),
        (["--search", "learning_rate=1..20"], "20"),
        (["--search", "adapter.r=8.5"], "8.5"),
        (["--search", "adapter.r=5..7"], "no power of two"),
        (["--search", "adapter.r=4,8", "--set", "method=full"], "full has no rank"),
        (["--search", "epochs=1..2", "--search", "epochs=1..3"], "is given twice"),
        (["--set", "schedule.validation_fraction=0"], "--set schedule.validation_fraction=0.1"),
        (["--write", TINY], "no plan is written over"),
        (["--in-place", "--set", "seq_len=64"], "which --set is not in"),
        (["--resume", "latest"], "no such run"),
    ],
)
def test_each_mistake_is_told_in_a_line(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: Path,
) -> None:
    monkeypatch.setattr(sys, "argv", ["tuneplan", "tune", TINY, *DATA, *arguments])
    with pytest.raises(SystemExit) as ended:
        tuneplan.main()
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out) == (2, "")
    assert said in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not (home / "runs").exists()


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        search_space(plan_of(), ["rank=4", "epochs=0..3", "adapter.r="])
    assert len(caught.value.problems) == 3


def test_what_does_not_fit_the_gpu_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = load_plan(EXAMPLES / "llama-2-7b.yaml", ["method=lora", "weights_dtype=bf16"])
    assert too_large(plan, None) == ""
    assert too_large(plan, 24 * 2**30) == ""
    assert "there are 8.0 GiB" in too_large(plan, 8 * 2**30)

    small = LocalGpu(name="Tesla T4", memory_bytes=8 * 2**30, free_bytes=8 * 2**30)
    machine = describe_machine().model_copy(update={"gpus": (small,)})
    monkeypatch.setattr("trainer.search_trials.describe_machine", lambda: machine)
    request = request_for(plan=plan, device="auto")
    run = create_run(request)
    with pytest.raises(InputError, match=r"adapter\.r=64 is not tried: it needs 1"):
        run_search(request, run, RunWriter(run.folder))


def test_the_best_plan_goes_where_it_is_wanted_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    old = (EXAMPLES / "tiny.yaml").read_text() + "epochs: 2  # enough\n"
    path.write_text(old)
    (tmp_path / "tiny-llama").symlink_to(EXAMPLES / "tiny-llama")
    plan = load_plan(path)
    request = request_for(plan=plan).model_copy(update={"write_to": str(path), "in_place": True})
    best = plan_with(plan, {"learning_rate": 3e-3, "adapter.r": 8, "epochs": 1})
    assert "mine.yaml.bak" in write_best(request, best)
    assert load_plan(path) == best
    assert (tmp_path / "mine.yaml.bak").read_text() == old
    assert "# a model this small learns fast" in path.read_text()
    write_best(request, plan)
    assert len(list(tmp_path.glob("mine.yaml.bak*"))) == 1  # nothing to change: left as it is

    elsewhere = request.model_copy(update={"write_to": str(path), "in_place": False})
    with pytest.raises(InputError, match="no plan is written over"):
        write_best(elsewhere, best)


def result_of(rates: list[float], losses: list[float]) -> SearchResult:
    space = search_space(plan_of(), ["adapter.r=16", "epochs=3"])
    trials = tuple(
        Trial(
            number=number,
            parameters={"learning_rate": rate, "adapter.r": 16, "epochs": 3},
            state="completed",
            validation_loss=loss,
        )
        for number, (rate, loss) in enumerate(zip(rates, losses, strict=True), start=1)
    )
    best = min(trials, key=lambda one: one.validation_loss or 0)
    return SearchResult(
        plan=plan_of(),
        searched=space,
        num_trials=len(trials),
        trials=trials,
        best=best.number,
        num_validation=5,
    )


def evaluation(*losses: float) -> Evaluation:
    pieces = tuple(Piece(loss=16 * loss, num_tokens=16) for loss in losses)
    return Evaluation(validation_pieces=pieces, seconds=1, seed=0)


def test_how_sure_the_best_is_is_said_plainly() -> None:
    result = result_of([1e-3, 9e-3, 2e-3], [3.0, 2.5, 2.6])
    noisy = {2: evaluation(*[2.0, 3.0] * 10), 3: evaluation(*[3.1, 2.1] * 10)}
    said = sentence(result, noisy)
    assert said.startswith("Trial 2 is best, with a validation loss of 2.5.")
    assert "The plan's own settings have 3 (trial 1)." in said
    assert "the difference may be noise" in said
    assert "Only 5 examples are held out" in said
    assert "--search learning_rate=0.009..0.09" in said
    clear = {2: evaluation(*[2.0, 3.0] * 10), 3: evaluation(*[2.1, 3.11] * 10)}
    assert "worse by more than noise" in sentence(result, clear)
    assert "is not known" in sentence(result, {})
    alone = sentence(result_of([1e-3], [3.0]), {})
    assert "nothing to compare it with" in alone

"""A search for real on the tiny model: a trial is killed, then the search, and it goes on."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from estimator.plan import load_plan
from reports import terminal_runs, terminal_search
from trainer import launch
from trainer.finetune_results import FineTuneRequest
from trainer.runs import Run, find_run
from trainer.search_results import SearchRequest, SearchResult
from trainer.search_space import search_space

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def trials_of(search: Run) -> list[Run]:
    """The runs of a search's trials, in order."""
    found = []
    for path in search.folder.parent.glob("[!.]*/request.json"):
        run = Run(path.parent)
        request = run.request()
        if isinstance(request, FineTuneRequest) and request.search == search.id:
            found.append((request.trial, run))
    return [run for _, run in sorted(found, key=lambda one: one[0])]


def kill(run: Run) -> None:
    pid = run.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Three trials: one done, one killed from outside, and one that outlived its search."""
    folder = tmp_path_factory.mktemp("search")
    data = folder / "eight.jsonl"
    lines = (EXAMPLES / "questions.jsonl").read_text().splitlines()
    data.write_text("\n".join(lines[1:16:2]) + "\n")
    plan = load_plan(
        EXAMPLES / "tiny.yaml",
        ["seq_len=96", "padded=true", "epochs=1", "schedule.validation_fraction=0.3"],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(folder / "home"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        request = SearchRequest(
            plan=plan,
            searched=search_space(plan),
            num_trials=3,
            data_path=str(data),
            device="cpu",
            write_to=str(folder / "best.yaml"),
        )
        run = launch.start(request)
        until(lambda: len(trials_of(run)) == 2 and trials_of(run)[1].status().pid is not None)
        kill(trials_of(run)[1])
        until(
            lambda: [(one.folder / "before.json").exists() for one in trials_of(run)][2:] == [True]
        )
        kill(run)
        until(lambda: run.status().state == "failed")
        launch.resume(run)
        assert launch.wait(run).state == "finished"
        assert find_run("latest") == run  # not the trial that began after it
        yield run


def shown(renderable: object) -> str:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_it_goes_on_when_a_trial_fails_and_when_it_is_killed_itself(search: Run) -> None:
    result = search.result()
    assert isinstance(result, SearchResult)
    assert [one.state for one in result.trials] == ["completed", "failed", "completed"]
    assert "killed from outside" in result.trials[1].reason
    runs = trials_of(search)
    assert [one.run for one in result.trials] == [run.id for run in runs]  # none was run twice
    for trial, run in zip(result.trials, runs, strict=True):
        losses = [row["validation_loss"] for row in run.metrics() if "validation_loss" in row]
        assert trial.validations == tuple(losses)
        assert run.request().plan.adapter.r == trial.parameters["adapter.r"]
    assert result.trials[0].parameters == {"learning_rate": 1e-3, "adapter.r": 16, "epochs": 1}
    assert result.sentence.startswith(f"Trial {result.best} is best")


def test_only_the_best_model_is_kept_and_its_plan_is_written(search: Run) -> None:
    result = search.result()
    assert isinstance(result, SearchResult)
    best = result.best_trial()
    assert best is not None
    for run in trials_of(search):
        assert (run.folder / "model").exists() == (run.id == best.run)
        assert (run.folder / "metrics.jsonl").exists() or run.status().state == "failed"
    plan = load_plan(search.folder / "best-plan.yaml")
    assert plan.schedule.learning_rate == best.parameters["learning_rate"]
    assert plan.adapter.r == best.parameters["adapter.r"]
    written = search.folder.parents[2] / "best.yaml"
    assert load_plan(written) == plan
    # what the model could do before is measured once
    before = [(run.folder / "before.json") for run in (search, *trials_of(search)[::2])]
    assert len({path.read_text() for path in before}) == 1


def test_the_screen_says_what_came_of_it_and_how_sure_that_is(search: Run) -> None:
    result = search.result()
    assert isinstance(result, SearchResult)
    best = result.best_trial()
    assert best is not None
    screen = shown(terminal_search.outcome(search))
    for part in ("lowest loss", "best", "failed", f"run {best.run}", "best-plan.yaml", "held out"):
        assert part in screen
    assert max(map(len, screen.splitlines())) <= 80
    assert "tuneplan tune" in shown(terminal_runs.run(search))

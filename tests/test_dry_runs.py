from pathlib import Path

import pytest

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.dry_runs import DryRuns
from trainer.launch import WorkerFailed


def test_one_worker_makes_several_dry_runs_that_do_not_touch_one_another(
    tiny_plan: FineTunePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan.changed(seq_len=64)
    with DryRuns() as dry_runs:
        first = dry_runs.dry_run(plan)
        other = dry_runs.dry_run(plan.changed(method="qlora", micro_batch_size=8))
        with pytest.raises(InputError, match="no such folder"):
            dry_runs.dry_run(plan.changed(model="nowhere"))
        monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "forgetful"))  # where none was kept
        again = dry_runs.dry_run(plan)
    assert first.basis == "dry-run"
    assert other.components_bytes["quantization_state"]
    # The order in which a graph lets go of what it held differs, and with it the timeline's points.
    differing = {"seconds", "timeline"}
    assert again.model_dump(exclude=differing) == first.model_dump(exclude=differing)


def test_a_worker_that_breaks_says_why_and_gives_its_place_to_another(
    tiny_plan: FineTunePlan,
) -> None:
    with DryRuns(module="trainer.nothing_of_that_name") as dry_runs:
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="nothing_of_that_name"):
                dry_runs.dry_run(tiny_plan)

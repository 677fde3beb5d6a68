import pytest

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.dry_runs import DryRuns
from trainer.launch import WorkerFailed


def test_one_worker_makes_several_dry_runs_that_do_not_touch_one_another(
    tiny_plan: FineTunePlan,
) -> None:
    plan = tiny_plan.changed(seq_len=64)
    with DryRuns() as dry_runs:
        first = dry_runs.dry_run(plan)
        other = dry_runs.dry_run(plan.changed(method="qlora", micro_batch_size=8))
        with pytest.raises(InputError, match="no such folder"):
            dry_runs.dry_run(plan.changed(model="nowhere"))
        again = dry_runs.dry_run(plan)
    assert first.basis == "dry-run"
    assert other.components_bytes["quantization_state"]
    assert again.model_copy(update={"seconds": first.seconds}) == first


def test_a_worker_that_breaks_says_why_and_gives_its_place_to_another(
    tiny_plan: FineTunePlan,
) -> None:
    with DryRuns(module="trainer.nothing_of_that_name") as dry_runs:
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="nothing_of_that_name"):
                dry_runs.dry_run(tiny_plan)

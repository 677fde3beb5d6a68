"""Calibration: what a probe teaches, whom it teaches, and what lessons of one GPU are worth."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from statistics import mean, median
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.calibration import LESSONS, Case, Errors, cases, leave_one_out
from estimator.calibrated import apply
from estimator.calibration import Calibration, calibrate
from estimator.estimate import Level
from estimator.gpu_names import gpu_of_driver, is_same_gpu
from estimator.lesson_files import import_lessons, keep, read_lessons
from estimator.lessons import Lesson
from estimator.throughput import read_throughput
from trainer.lessons import calibration_folder, keep_lesson, lesson_of
from trainer.results import OutOfMemory, ProbeResult

PROJECT = Path(__file__).resolve().parents[1]
TODAY = date(2026, 11, 22)
T4 = "Tesla T4"
LEVELS: tuple[Level, ...] = ("allocated", "reserved", "total")


@pytest.fixture(scope="module")
def t4() -> list[Case]:
    """Every published step of a T4, as a lesson and as estimates."""
    found = cases(T4)
    assert len(found) == 22
    return found


@pytest.fixture(scope="module")
def probe() -> ProbeResult:
    """What a real probe of the tiny model once found on a CPU."""
    text = (PROJECT / "tests" / "data" / "tiny_probe_result.json").read_text(encoding="utf-8")
    document = json.loads(text)
    document["plan"]["model"] = str(PROJECT / "examples" / "tiny-llama")
    return ProbeResult.model_validate(document)


def own(lessons: list[Lesson]) -> list[Lesson]:
    return [one.model_copy(update={"imported_from": ""}) for one in lessons]


def learnt(lessons: list[Lesson], **keys: Any) -> Calibration:
    found = calibrate(lessons, T4, lessons[0].software, **{"today": TODAY, **keys})
    assert found is not None
    return found


def test_a_real_cpu_probe_is_kept_and_speaks_of_this_processor_alone(probe: ProbeResult) -> None:
    file = keep_lesson(probe)
    assert file is not None
    (lesson,) = read_lessons(calibration_folder()).lessons
    assert file.name == f"{lesson.id}.json"
    assert lesson == lesson_of(probe)
    assert probe.measured
    assert lesson.measured.allocated_bytes == probe.measured.peak_allocated_bytes
    assert lesson.step_seconds == probe.step_seconds_median
    assert lesson.timed_seq_len == probe.plan.seq_len
    assert calibrate([lesson], T4, lesson.software, today=TODAY) is None
    here = calibrate([lesson], lesson.device_name, lesson.software, today=TODAY)
    assert here
    assert here.flops_per_second
    assert here.flops_per_second.median > 1e6
    assert (here.context_bytes, here.cache_share, here.time_factor, here.mfu) == (None,) * 4


def test_a_probe_teaches_only_what_it_can(probe: ProbeResult) -> None:
    limited = lesson_of(probe, has_memory_limit=True)
    assert limited
    assert limited.teaches_allocated
    assert not limited.teaches_time
    stopped = lesson_of(probe.model_copy(update={"num_steps": 1, "step_seconds_median": None}))
    assert stopped
    assert not stopped.teaches_allocated
    short = OutOfMemory(
        phase="load", requested_bytes=1, allocated_bytes=1, capacity_bytes=1, message="no"
    )
    failed = probe.model_copy(update={"measured": None, "out_of_memory": short, "num_steps": 0})
    assert keep_lesson(failed) is None


def test_a_limit_or_a_stopped_probe_on_a_gpu_leaves_cache_and_offset_alone(t4: list[Case]) -> None:
    lesson = t4[0].lesson
    limited = learnt([lesson.model_copy(update={"had_memory_limit": True})])
    assert limited.allocated_offset_bytes
    assert limited.context_bytes
    assert (limited.reserved_offset_bytes, limited.cache_share, limited.time_factor) == (None,) * 3
    stopped = learnt([lesson.model_copy(update={"num_steps": 1})])
    assert stopped.context_bytes
    assert (stopped.allocated_offset_bytes, stopped.cache_share) == (None, None)


def test_time_is_compared_with_a_step_of_the_length_that_was_timed(probe: ProbeResult) -> None:
    plan = probe.plan.changed(model="meta-llama/Llama-2-7b-hf", seq_len=2048)
    found = []
    for length in (2048, 512):
        positions = length * plan.micro_batch_size * plan.micro_steps_taken
        timed = {"step_seconds_median": 100.0, "tokens_per_second": positions / 100.0}
        where = {"plan": plan, "device": "cuda", "device_name": T4}
        lesson = lesson_of(probe.model_copy(update=timed | where))
        assert lesson
        assert lesson.timed_seq_len == length
        found.append(lesson.model_step_seconds)
    whole, quarter = found
    assert whole
    assert quarter
    assert 3 < whole / quarter < 6  # attention's share falls with the square


def test_one_lesson_gives_back_exactly_what_it_measured(t4: list[Case]) -> None:
    for case in t4:
        lesson, plan = case.lesson, case.plan_row.plan
        known = learnt([lesson], plan=plan)
        for estimate in (case.formula, case.dry_run):
            found = apply(known, estimate, read_throughput(plan))
            sizes = {level: found.calibrated_bytes[level].likely_bytes for level in LEVELS}
            assert sizes == {level: getattr(lesson.measured, f"{level}_bytes") for level in LEVELS}
            assert found.plain_bytes["allocated"] == estimate.peak_allocated_bytes
            assert found.calibrated_step_seconds
            assert found.calibrated_step_seconds.likely == pytest.approx(lesson.step_seconds)


def test_lessons_improve_the_estimates_of_steps_they_have_not_seen(t4: list[Case]) -> None:
    formula = {one.figure: one for one in leave_one_out(t4, "formula")}
    dry_run = {one.figure: one for one in leave_one_out(t4, "dry-run")}
    for one in formula.values():
        assert mean_of(one.calibrated) < 0.95 * mean_of(one.plain), one.figure
    assert mean_of(formula["step time"].calibrated) < 0.06
    for figure in ("reserved", "total"):
        one = dry_run[figure]
        assert middle_of(one.calibrated) < 0.7 * middle_of(one.plain)
        # one row in 22 is far off either way: what moved its cache is constant of nothing
        assert mean_of(one.calibrated) < 1.02 * mean_of(one.plain)


def mean_of(errors: list[float]) -> float:
    return mean(map(abs, errors))


def middle_of(errors: list[float]) -> float:
    return median(map(abs, errors))


@settings(max_examples=20, deadline=None)
@given(order=st.permutations(range(22)))
def test_the_order_of_lessons_does_not_matter(order: list[int], t4: list[Case]) -> None:
    lessons = [case.lesson for case in t4]
    assert learnt([lessons[place] for place in order]) == learnt(lessons)


def test_only_the_same_gpu_and_libraries_count(t4: list[Case]) -> None:
    lesson = t4[0].lesson.model_copy(update={"software": {"torch": "2.13.0+cu130"}})
    assert calibrate([lesson], T4, {"torch": "2.13.1+cu128"}, today=TODAY)
    assert calibrate([lesson], T4, {"torch": "2.14.0"}, today=TODAY) is None
    assert calibrate([lesson], T4, {"torch": "2.13.0", "peft": "0.21.2"}, today=TODAY) is None
    assert calibrate([lesson], "L4", {"torch": "2.13.0"}, today=TODAY) is None
    assert calibrate([], T4, {"torch": "2.13.0"}, today=TODAY) is None


@pytest.mark.parametrize(
    ("driver", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM 80GB"),
        ("NVIDIA L40S", "L40S"),
        ("Tesla T4", "Tesla T4"),
    ],
)
def test_a_drivers_name_leads_to_the_catalogues(driver: str, name: str) -> None:
    assert is_same_gpu(driver, name)
    gpu = gpu_of_driver(driver)
    assert gpu
    assert gpu.name == name


def test_a_laptops_gpu_is_not_the_desktops() -> None:
    assert gpu_of_driver("NVIDIA GeForce RTX 4090 Laptop GPU") is None
    assert not is_same_gpu("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090")


def test_another_kind_of_step_teaches_the_context_alone(t4: list[Case]) -> None:
    lora = [case for case in t4 if case.plan_row.plan.quantization == "none"]
    qlora = next(case for case in t4 if case.plan_row.plan.quantization == "nf4")
    known = learnt([case.lesson for case in lora], plan=qlora.plan_row.plan)
    found = apply(known, qlora.dry_run, read_throughput(qlora.plan_row.plan))
    assert "allocated" not in found.calibrated_bytes
    assert found.calibrated_step_seconds is None
    assert found.calibrated_fits is None
    assert known.context_bytes
    assert "nf4 quantization" in known.notes[0]


def test_it_says_when_lessons_are_old_or_disagree(t4: list[Case]) -> None:
    first, second = t4[0].lesson, t4[1].lesson
    later = TODAY + timedelta(days=400)
    assert any("older than 180 days" in note for note in learnt([first], today=later).notes)
    newer = second.model_copy(update={"made_on": later})
    notes = learnt([first, newer], today=later).notes
    assert any(note.startswith("1 of 2 lessons are older") for note in notes)
    more = first.measured.model_copy(update={"context_bytes": 2**30, "total_bytes": None})
    apart = learnt([first, first.model_copy(update={"measured": more})])
    assert any("disagree on the CUDA context: 141 to 1,024 MiB" in note for note in apart.notes)
    assert not learnt(own([first])).notes
    every = learnt([case.lesson for case in t4])
    assert any("disagree on the allocator's cache" in note for note in every.notes)


def test_imported_lessons_count_only_where_there_are_none_of_ones_own(t4: list[Case]) -> None:
    foreign = [case.lesson for case in t4]
    mine = own(foreign[:1])
    assert learnt(mine + foreign[1:]) == learnt(mine)
    known = learnt(foreign)
    assert known.source == "imported"
    assert any("published rows" in note for note in known.notes)


def test_an_import_never_takes_the_place_of_a_lesson_of_ones_own(tmp_path: Path) -> None:
    first = import_lessons(LESSONS, TODAY)[0]
    (mine,) = own([first])
    keep(tmp_path, mine)
    keep(tmp_path, first)
    assert read_lessons(tmp_path).lessons == (mine,)


def test_the_number_of_lessons_is_bounded(
    tmp_path: Path, t4: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("estimator.lesson_files.MAX_KEPT", 3)
    keep(tmp_path, t4[-1].lesson)
    for day, lesson in enumerate(own([case.lesson for case in t4[:5]])):
        keep(tmp_path, lesson.model_copy(update={"made_on": TODAY + timedelta(days=day)}))
    kept = read_lessons(tmp_path).lessons
    assert sum(bool(one.imported_from) for one in kept) == 1
    days = [one.made_on for one in kept if not one.imported_from]
    assert days == [TODAY + timedelta(days=day) for day in (2, 3, 4)]


def test_a_damaged_lesson_is_named_and_left_out(tmp_path: Path, t4: list[Case]) -> None:
    keep(tmp_path, t4[0].lesson)
    (tmp_path / "torn.json").write_text('{"version": 1, "made_', encoding="utf-8")
    kept = read_lessons(tmp_path)
    assert kept.lessons == (t4[0].lesson,)
    assert kept.damaged == ("torn.json",)


def test_errors_of_figures_are_of_every_row(t4: list[Case]) -> None:
    found: list[Errors] = leave_one_out(t4, "formula")
    assert {one.figure for one in found} == {*LEVELS, "step time"}
    assert all(len(one.plain) == len(one.calibrated) == 22 for one in found)

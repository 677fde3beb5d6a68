"""Lessons listed, shared, taken in and forgotten; and shown beside an estimate."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import tuneplan
from bench.calibration import LESSONS
from estimator.calibration import calibrate
from estimator.lesson_files import import_lessons, keep, read_lessons
from estimator.lessons import Lesson
from trainer.lessons import calibration_folder, keep_lesson, software_here
from trainer.machine import LocalGpu, describe_machine
from trainer.results import ProbeResult

PROJECT = Path(__file__).resolve().parents[1]
SECRET = "jsmith"
TODAY = date(2026, 11, 22)
PLAN = f"""
model: {PROJECT}/bench/published/models/SmolLM2-1.7B
method: lora
gpu: Tesla T4
weights_dtype: fp16
autocast_dtype: none
attention: eager
seq_len: 1024
data: {{num_examples: 1000}}
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.lessons.today", lambda: TODAY)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run_(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["tuneplan", *arguments])
        monkeypatch.setenv("COLUMNS", "100")
        with pytest.raises(SystemExit) as end:
            tuneplan.main()
        code, shown = end.value.code, capsys.readouterr()
        return Done(code if isinstance(code, int) else 0, shown.out, shown.err)

    return run_


@pytest.fixture
def own_lessons() -> list[Lesson]:
    """The T4's lessons, as if its probes had been made here with the libraries of today."""
    here = {"imported_from": "", "software": software_here()}
    lessons = [one.model_copy(update=here) for one in import_lessons(LESSONS, TODAY)]
    lessons = [one for one in lessons if one.device_name == "Tesla T4"]
    for one in lessons:
        keep(calibration_folder(), one)
    return lessons


@pytest.fixture
def on_t4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose driver reports a T4."""
    gpu = LocalGpu(name="Tesla T4", memory_bytes=15_843_721_216, free_bytes=None)
    machine = describe_machine().model_copy(update={"gpus": (gpu,), "driver": "580.1"})
    monkeypatch.setattr("trainer.lessons.describe_machine", lambda: machine)


def test_an_estimate_shows_plain_and_calibrated_values(
    run: Callable[..., Done], own_lessons: list[Lesson], on_t4: None, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN, encoding="utf-8")
    document = json.loads(run("estimate", str(plan), "--json").out)
    found = document["calibration"]
    assert found["plain_bytes"]["allocated"] == document["peak_allocated_bytes"]
    assert found["calibrated_bytes"]["total"]["likely_bytes"] != found["plain_bytes"]["total"]
    alike = [one for one in own_lessons if one.step.quantization == "none"]
    assert found["calibration"]["num_lessons"] == len(alike) == 7
    assert found["calibrated_hours"]["likely"] > found["plain_hours"]["likely"]
    text = " ".join(run("estimate", str(plan)).out.split())
    assert "Calibrated by 7 probes on Tesla T4 (2026-11-01): total" in text
    assert "(plain " in text
    assert " calibrated by 5 alike, " in text
    assert " by the model." in text


def test_an_estimate_for_another_machines_gpu_is_left_as_it_is(
    run: Callable[..., Done], own_lessons: list[Lesson], tmp_path: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN, encoding="utf-8")
    assert json.loads(run("estimate", str(plan), "--json").out)["calibration"] is None


def test_the_page_shows_both_too(own_lessons: list[Lesson], on_t4: None, tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN, encoding="utf-8")

    def page(path: str) -> None:
        from pathlib import Path

        from estimator.memory import read_formula
        from estimator.plan import load_plan
        from pages.ui import calibrated

        calibrated.beside(read_formula(load_plan(Path(path))))

    app = AppTest.from_function(page, args=(str(plan),), default_timeout=30).run()
    assert not app.exception
    said = " ".join(one.value for one in app.markdown)
    assert "Calibrated by 7 probes on Tesla T4" in said
    assert "plain" in said
    assert "by the model" in said
    assert len(app.table) == 2


def test_export_and_import_give_the_same_calibration_marked_as_foreign(
    run: Callable[..., Done],
    own_lessons: list[Lesson],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "out" / "lessons.json"
    assert run("calibration", "export", "-o", str(file)).status == 0
    assert "is there already" in run("calibration", "export", "-o", str(file)).err
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "another"))
    done = run("calibration", "import", str(file), "--source", "a friend")
    assert done.status == 0
    assert "22 lessons imported from a friend, exported" in done.out
    again = run("calibration", "import", str(file), "--source", "a friend").out
    assert "0 lessons imported" in again
    assert "The other 22 of 22 were here already." in again
    kept = read_lessons(calibration_folder()).lessons
    assert {one.id for one in kept} == {one.id for one in own_lessons}
    mine = calibrate(own_lessons, "Tesla T4", software_here(), today=TODAY)
    theirs = calibrate(kept, "Tesla T4", software_here(), today=TODAY)
    assert mine
    assert theirs
    but = {"source", "notes"}
    assert mine.model_dump(exclude=but) == theirs.model_dump(exclude=but)
    assert theirs.source == "imported"
    listed = run("calibration", "list").out
    assert "imported from a friend" in listed
    assert "1 lesson forgotten" in run("calibration", "forget", kept[0].id).out
    assert len(json.loads(run("calibration", "list", "--json").out)["lessons"]) == 21
    mine_only = run("calibration", "export", "-o", str(file), "--force")
    assert mine_only.status == 2  # none of them is one's own
    assert "21 lessons forgotten" in run("calibration", "forget", "--all").out


def test_show_tells_what_was_learnt_and_from_what(
    run: Callable[..., Done], own_lessons: list[Lesson]
) -> None:
    text = run("calibration", "show").out
    assert "22 probes on Tesla T4" in text
    assert "CUDA context" in text
    assert "140.9 MiB" in text
    one = own_lessons[0]
    evidence = run("calibration", "show", one.id[:8]).out
    assert f"{one.measured.allocated_bytes:,} B" in evidence
    assert "Nothing learnt" not in text
    missing = run("calibration", "show", "nope")
    assert missing.status == 2
    assert "fits 0 lessons" in missing.err


def test_what_is_exported_names_nobody(run: Callable[..., Done], tmp_path: Path) -> None:
    home = tmp_path / SECRET / "secret-model"
    home.parent.mkdir()
    shutil.copytree(PROJECT / "examples" / "tiny-llama", home)
    text = (PROJECT / "tests" / "data" / "tiny_probe_result.json").read_text(encoding="utf-8")
    document = json.loads(text)
    document["plan"] |= {"model": str(home), "data": {"path": f"/home/{SECRET}/customers.jsonl"}}
    document["plan"]["adapter"]["target_modules"] = [f"{SECRET}_proj", "q_proj"]
    document["data"] = "50 examples of customers.jsonl"
    document["software"] |= {
        "torch": f"2.13.0+git.{SECRET}",
        "transformers": f"5.23.0.dev0+{SECRET}",
    }
    assert keep_lesson(ProbeResult.model_validate(document))
    file = tmp_path / "lessons.json"
    assert run("calibration", "export", "-o", str(file)).status == 0
    shared = file.read_text(encoding="utf-8")
    for secret in (SECRET, "secret-model", "customers", "/home", str(tmp_path), str(PROJECT)):
        assert secret not in shared
    for name in (socket.gethostname(), getpass.getuser()):
        assert f'"{name}"' not in shared
    (lesson,) = json.loads(shared)["lessons"]
    assert lesson["step"]["model"].startswith("local llama, ")
    assert lesson["software"]["torch"] == "2.13.0"


def broken(change: Callable[[dict[str, Any]], Any]) -> str:
    document = json.loads(LESSONS.read_text(encoding="utf-8"))
    document["lessons"] = document["lessons"][:2]
    change(document)
    return json.dumps(document)


def first(document: dict[str, Any]) -> dict[str, Any]:
    return document["lessons"][0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("not json", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is no export of lessons"),
        (broken(lambda d: d.update(kind="other")), "kind"),
        (broken(lambda d: d.update(lessons=[])), "lessons"),
        (broken(lambda d: d.update(extra="x" * 10**6)), "extra: is not a known key"),
        (broken(lambda d: first(d).update({"\x1b[31mred": 1})), "is not a known key"),
        (broken(lambda d: first(d).update(device_name="\x1b]0;title\x07")), "device_name"),
        (broken(lambda d: first(d).update(device_name="../../etc/passwd")), "device_name"),
        (broken(lambda d: first(d)["measured"].update(allocated_bytes=-1)), "allocated_bytes"),
        (broken(lambda d: first(d)["measured"].update(allocated_bytes=2**60)), "allocated_bytes"),
        (broken(lambda d: first(d)["measured"].update(reserved_bytes=1)), "no smaller than"),
        (
            broken(lambda d: first(d)["measured"].update(context_bytes=1)),
            "reserved_bytes + context",
        ),
        (broken(lambda d: first(d).update(step_seconds=float("nan"))), "step_seconds"),
        (broken(lambda d: first(d).update(step_seconds=float("inf"))), "step_seconds"),
        (broken(lambda d: first(d).update(made_on="2999-01-01")), "2999-01-01"),
        (broken(lambda d: first(d).update(imported_from="me")), "imported themselves"),
        (broken(lambda d: d.update(lessons=[first(d)] * 201)), "200"),
        (" " * (5 * 2**20), "larger than 4 MiB"),
    ],
)
def test_a_hostile_import_is_refused_in_one_line_a_problem(
    text: str, said: str, run: Callable[..., Done], tmp_path: Path
) -> None:
    file = tmp_path / "lessons.json"
    file.write_text(text, encoding="utf-8")
    done = run("calibration", "import", str(file))
    assert done.status == 2
    assert said in done.err
    assert len(done.err.splitlines()) == 1
    assert len(done.err) < 2000
    assert "\x1b" not in done.err
    assert "Traceback" not in done.err
    assert not calibration_folder().exists()


def test_every_problem_of_an_import_has_its_line(run: Callable[..., Done], tmp_path: Path) -> None:
    file = tmp_path / "lessons.json"

    def change(document: dict[str, Any]) -> None:
        document["lessons"][0]["num_steps"] = 0
        document["lessons"][1]["step"]["method"] = "magic"

    file.write_text(broken(change), encoding="utf-8")
    lines = run("calibration", "import", str(file)).err.splitlines()
    assert len(lines) == 2
    assert "num_steps" in lines[0]
    assert "method" in lines[1]


def test_forget_wants_to_know_what(run: Callable[..., Done]) -> None:
    for arguments in ((), ("abc", "--all")):
        done = run("calibration", "forget", *arguments)
        assert done.status == 2
        assert "--all" in done.err

"""The command line as a person meets it: real processes, real probes of the tiny model."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from estimator.plan import load_plan
from trainer.results import ProbeRequest
from trainer.run_writer import RunWriter, create_run

EXAMPLES = Path(__file__).parent.parent / "examples"
TEXTBOOK = str(EXAMPLES / "llama-2-7b.yaml")
TINY = str(EXAMPLES / "tiny.yaml")
HEAVY = ("torch", "transformers", "pandas", "streamlit", "plotly", "jinja2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def tuneplan(
    *arguments: str, home: Path, typed: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "TUNEPLAN_HOME": str(home),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-m", "tuneplan", *arguments],
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def json_of(*arguments: str, home: Path) -> dict[str, Any]:
    done = tuneplan(*arguments, "--json", home=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", [["--help"], ["estimate", TEXTBOOK], ["compare", TEXTBOOK]])
def test_heavy_libraries_stay_out(arguments: list[str], home: Path) -> None:
    program = (
        f"import sys; sys.argv = ['tuneplan', *{arguments!r}]\n"
        "from tuneplan import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"print('imported:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1] == "imported: []", done.stderr


def test_help_names_every_command(home: Path) -> None:
    done = tuneplan("--help", home=home)
    assert done.returncode == 0
    for command in ("advise", "estimate", "compare", "probe", "runs", "report", "doctor", "app"):
        assert f"\n  {command} " in done.stdout


def test_the_textbook_full_fine_tune(home: Path) -> None:
    document = json_of("estimate", TEXTBOOK, home=home)
    assert document["basis"] == "formula"
    assert document["parameters"] == {"total": 6_738_415_616, "trainable": 6_738_415_616}
    parts = document["components_bytes"]
    states = sum(parts[kind] for kind in ("weights", "gradients", "optimizer_states"))
    assert states == 16 * 6_738_415_616
    shown = tuneplan("estimate", TEXTBOOK, home=home).stdout
    assert "107.8 GB" in shown
    assert "112 GB" in shown


@pytest.mark.parametrize(
    "arguments",
    [["estimate", TEXTBOOK], ["compare", TEXTBOOK], ["advise", str(EXAMPLES / "support-bot.yaml")]],
)
def test_screens_are_80_columns_without_colour(arguments: list[str], home: Path) -> None:
    done = tuneplan(*arguments, home=home)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\x1b" not in done.stdout
    assert "…" not in done.stdout, "something was cut off"


def test_compare_lays_three_methods_side_by_side(home: Path) -> None:
    document = json_of("compare", TEXTBOOK, "--gpu", "T4", "--gpu", "H200 SXM", home=home)
    estimates = document["estimates"]
    assert [one["plan"]["method"] for one in estimates] == ["full", "lora", "qlora"]
    assert [len(one["gpus"]) for one in estimates] == [2, 2, 2]
    totals = [one["peak_allocated_bytes"] for one in estimates]
    assert totals == sorted(totals, reverse=True)
    assert estimates[2]["gpus"][0]["fits"] == "yes", "QLoRA of a 7B model fits a T4"


def test_overrides_reach_the_plan(home: Path) -> None:
    arguments = ("--set", "seq_len=1024", "--set", "adapter.r=8", "--set", "method=lora")
    document = json_of("estimate", TEXTBOOK, *arguments, home=home)
    plan = document["plan"]
    assert (plan["seq_len"], plan["adapter"]["r"], plan["method"]) == (1024, 8, "lora")


def said_at(words: list[str]) -> Callable[[str], int]:
    """A sort key: which of the words a line holds."""
    return lambda line: next((i for i, word in enumerate(words) if word in line), len(words))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ("model: [", ["line 1"]),
        ("model: tiny-llama\nmethod: lorra\nseqlen: 5", ["lorra", "seqlen"]),
        ("model: no-such-org/no-such-model\nmethod: lora", ["no-such-org"]),
        ("model: here\nmethod: lora", ["config.json"]),
        ("model: strange\nmethod: lora", ["martian"]),
        ("method: qlora\ngpu: Voodoo 2", [": model: ", "Voodoo"]),
    ],
)
def test_a_wrong_plan_is_one_line_per_problem(
    plan: str, said: list[str], tmp_path: Path, home: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"model_type": "martian"}')
    (tmp_path / "plan.yaml").write_text(plan)
    done = tuneplan("estimate", str(tmp_path / "plan.yaml"), home=home)
    assert done.returncode == 2
    assert done.stdout == ""
    problems = done.stderr.splitlines()[-len(said) :]
    for word, problem in zip(said, sorted(problems, key=said_at(said)), strict=True):
        assert word in problem
        assert "; fix: " in problem
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["estimate", "nowhere.yaml"], "no such file"),
        (["estimate", TEXTBOOK, "--set", "seq_len"], "key=value"),
        (["compare", TEXTBOOK, "--gpu", "Voodoo 2"], "Voodoo 2"),
        (["runs", "show", "nothing"], "no such run"),
        (["report", "nowhere.yaml", "-o", "x.html"], "no such file"),
        (["advise", TEXTBOOK], "method"),
        (["probe", TINY, "--steps", "1"], "--steps"),
        (["probe", TINY, "--steps", "200000"], "--steps"),
        (["probe", TINY, "--memory-limit", "nan"], "--memory-limit"),
        (["runs", "compare", "latest"], "two runs or more"),
        (["probe", TINY, "--data", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_wrong_input_exits_2_and_says_why(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = tuneplan(*arguments, home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_broken_line_of_data_is_named_and_leaves_no_run(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    good = json.dumps({"prompt": "a", "completion": "b"})
    data.write_text("\n".join([good] * 16 + ['{"prompt": "a", '] + [good]))
    done = tuneplan("probe", TINY, "--data", str(data), home=tmp_path / "home")
    assert done.returncode == 2
    assert f"{data}: line 17" in done.stderr
    assert not (tmp_path / "home").exists()


def test_an_unwritable_runs_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = tuneplan("probe", TINY, home=tmp_path, TUNEPLAN_HOME=str(tmp_path / "file"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "TUNEPLAN_HOME" in done.stderr


def test_advise_asks_where_no_file_is_given(home: Path) -> None:
    typed = "2\n" + "9999\n1\n" + "\n" * 40
    done = tuneplan("advise", home=home, typed=typed)
    assert done.returncode == 0, done.stderr
    assert "Please give" in done.stderr
    assert "What would change the advice" in done.stdout


def test_doctor_tells_what_is_here(home: Path) -> None:
    document = json_of("doctor", home=home)
    assert document["software"]["torch"]
    assert document["runs_folder_writable"]
    assert document["runs_folder"].startswith(str(home))
    assert "This machine" in tuneplan("doctor", home=home).stdout


def test_dry_run_is_one_json_object_with_its_progress_apart(home: Path) -> None:
    done = tuneplan("estimate", TINY, "--dry-run", "--json", home=home)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["basis"] == "dry-run"
    assert document["peak_reserved_bytes"] >= document["peak_allocated_bytes"]
    assert "dry run of lora:" in done.stderr


@pytest.fixture(scope="module")
def demo(home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The demo, done once: its screen and its report. Its runs stay in ``home``."""
    report = tmp_path_factory.mktemp("out") / "deep" / "report.html"
    done = tuneplan("demo", "-o", str(report), home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, report


@pytest.mark.xdist_group("demo")
def test_the_demo_does_the_whole_job(demo: tuple[str, Path]) -> None:
    screen, report = demo
    assert max(map(len, screen.splitlines())) <= 80 or str(report) in screen
    assert "112 GB" in screen
    assert str(report) in screen
    assert "<html" in report.read_text(encoding="utf-8")
    last = screen[screen.index("read three ways") :]
    places = [last.index(f"\n {method} ") for method in ("full", "lora", "qlora")]
    assert places == sorted(places)


@pytest.mark.xdist_group("demo")
def test_the_dry_run_meets_the_measurement(demo: tuple[str, Path], home: Path) -> None:
    runs = json_of("runs", "list", home=home)["runs"]
    assert [run["state"] for run in runs] == ["finished"] * 3
    for run in runs:
        document = json_of("runs", "show", run["id"], home=home)
        measured = document["measured"]["peak_allocated_bytes"]
        dry_run = document["dry_run"]["peak_allocated_bytes"]
        assert abs(dry_run - measured) <= 0.005 * measured
        assert [row["step"] for row in document["metrics"]] == list(range(1, 21))
        if document["plan"]["method"] == "full":
            assert document["last_loss"] < document["first_loss"]


@pytest.mark.xdist_group("demo")
def test_runs_are_listed_shown_compared_and_reported(
    demo: tuple[str, Path], home: Path, tmp_path: Path
) -> None:
    first, second, _ = (run["id"] for run in json_of("runs", "list", home=home)["runs"])
    assert first in tuneplan("runs", "list", home=home).stdout
    assert "finished" in tuneplan("runs", "show", "latest", home=home).stdout
    assert "already" in tuneplan("runs", "stop", first, home=home).stdout
    compared = json_of("runs", "compare", first, second, home=home)
    assert compared["differences"]["method"] == ["qlora", "lora"]
    assert "method" in tuneplan("runs", "compare", first, second, home=home).stdout
    output = tmp_path / "report.json"
    scenario = str(EXAMPLES / "support-bot.yaml")
    arguments = ("report", scenario, "--format", "json", "-o", str(output), "--run", first)
    assert tuneplan(*arguments, home=home).returncode == 0
    document = json.loads(output.read_text())
    assert len(document["probes"]) == 1
    assert len(document["estimates"]) == 3


def test_a_run_without_a_result_is_not_left_out_of_a_report_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    run = create_run(ProbeRequest(plan=load_plan(Path(TINY))))
    RunWriter(run.folder).status(state="failed", reason="no GPU")
    output = tmp_path / "report.html"
    scenario = str(EXAMPLES / "support-bot.yaml")
    done = tuneplan("report", scenario, "-o", str(output), "--run", run.id, home=tmp_path)
    assert done.returncode == 2
    assert f"run {run.id}: is failed and has no result" in done.stderr
    assert not output.exists()


def test_a_probe_that_runs_out_of_memory_exits_1_and_says_what_would_fit(home: Path) -> None:
    large = ("--set", "micro_batch_size=64", "--set", "seq_len=1024")
    done = tuneplan("probe", TINY, *large, "--memory-limit", "0.5", "--steps", "2", home=home)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Out of memory in the" in done.stdout
    assert "--set micro_batch_size=" in done.stdout


def test_what_is_bundled_can_be_listed_and_looked_through(home: Path) -> None:
    models = json_of("models", "qwen2.5", home=home)["models"]
    assert models
    assert all("qwen" in model["id"].lower() for model in models)
    gpus = tuneplan("gpus", "h100", home=home).stdout
    assert "H100 SXM 80GB" in gpus
    assert "T4" not in gpus
    assert "called that" in tuneplan("models", "no-such-model", home=home).stdout


def test_the_version_is_told(home: Path) -> None:
    told = tuneplan("--version", home=home)
    assert told.returncode == 0
    assert told.stdout.startswith("tuneplan ")

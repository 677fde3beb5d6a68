"""What the documentation says is what the program does."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from estimator.documents import parse_document
from estimator.plan import FineTunePlan, parse_plan

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")
# These have tests of their own.
SLOW = ("app", "demo", "probe", "finetune", "tune", "generate", "merge", "push")


def console_lines(text: str) -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


COMMANDS = console_lines(README)
TUNEPLAN = [line for line in COMMANDS if line.startswith("tuneplan ")]


def test_the_readme_has_commands_to_try() -> None:
    assert len(TUNEPLAN) >= 8
    assert "make demo" in COMMANDS
    assert "make test" in COMMANDS


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("make ")])
def test_every_make_target_exists(line: str) -> None:
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    done = subprocess.run(
        [make, "-n", *shlex.split(line)[1:]],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("line", TUNEPLAN)
def test_every_command_works_as_written(line: str, tmp_path: Path) -> None:
    arguments = shlex.split(line)[1:]
    if arguments[0] in SLOW:
        arguments = [arguments[0], "--help"]
    if "RUN" in line or "runs" in line:
        arguments = [argument for argument in arguments if not argument.startswith("latest")]
        arguments += [] if "list" in arguments else ["--help"]
    shutil.copytree(PROJECT / "examples", tmp_path / "examples")
    done = subprocess.run(
        [sys.executable, "-m", "tuneplan", *arguments],
        cwd=tmp_path,
        env=os.environ | {"TUNEPLAN_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_options_that_are_not_run_here_exist() -> None:
    for line in TUNEPLAN:
        words = shlex.split(line)[1:]
        names = [word for word in words if not word.startswith("-")]
        command = names[:2] if names[0] == "runs" else names[:1]
        shown = subprocess.run(
            [sys.executable, "-m", "tuneplan", *command, "--help"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for option in (word for word in words if word.startswith("--")):
            assert option in shown, f"{line}: {option}"


def test_the_screen_in_the_readme_is_what_compare_shows(tmp_path: Path) -> None:
    screen = README.split("```text\n", 1)[1].split("```", 1)[0]
    shown = subprocess.run(
        [sys.executable, "-m", "tuneplan", "compare", "examples/llama-2-7b.yaml"],
        cwd=PROJECT,
        env=os.environ | {"COLUMNS": "80", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    shown_lines = [line.strip() for line in shown.splitlines()]
    for line in screen.splitlines():
        assert line.strip() in shown_lines, line


def test_the_plan_file_page_lists_every_key_with_its_default() -> None:
    page = (PROJECT / "docs" / "plan-file.md").read_text(encoding="utf-8")
    block = page.split("```yaml\n", 1)[1].split("```", 1)[0]
    document = parse_document(block, "plan-file.md")
    least = FineTunePlan.model_validate({key: document[key] for key in ("model", "method")})
    assert document == least.to_document()


def test_the_plan_in_the_readme_is_a_plan() -> None:
    block = README.split("```yaml\n", 1)[1].split("```", 1)[0]
    assert parse_plan(parse_document(block, "README.md")).method == "qlora"

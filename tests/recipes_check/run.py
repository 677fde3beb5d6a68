"""Check recipes against the trainers' own parsers, each in an environment of its own.

    make test-recipes

Makes the environments in build/recipes (some 550 MB from PyPI, torch shared with tuneplan's
own), a recipe for each case and trainer, and lets each trainer read them; TRL's are run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import Any

from estimator.documents import read_document
from estimator.plan import load_plan
from estimator.problems import InputError
from reports.recipe import build_recipe, write_recipe
from reports.recipe_mapping import TRAINERS
from reports.recipe_skypilot import build_skypilot

HERE = Path(__file__).parent
PROJECT = HERE.parent.parent
BUILD = PROJECT / "build" / "recipes"
TARGETS = (*TRAINERS, "skypilot")
OFFLINE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HOME": str(BUILD / "home")}
LARGEST_DIFFERENCE = 0.01
"""Between two losses of the same step: the loss in chunks rounds otherwise than on whole logits."""


def make_environment(target: str, wanted: dict[str, Any]) -> Path:
    """Return an environment's python, installed anew where what is wanted has changed."""
    folder = BUILD / "environments" / target
    python = Path(sys.executable) if "sources" in wanted else folder / "bin" / "python"
    done = folder / "installed.json"
    if done.exists() and json.loads(done.read_text()) == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if "sources" in wanted:
        pip[0] = str(folder / "bin" / "python")
        command = [*pip, "download", "--no-deps", "--dest", str(folder), wanted["sources"]]
        subprocess.run(command, check=True)
    else:
        site = sysconfig.get_path("purelib", vars={"base": str(folder)})
        (Path(site) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        options = wanted.get("options", [])
        if "packages" in wanted:
            subprocess.run([*pip, "install", *options, *wanted["packages"]], check=True)
        if "alone" in wanted:
            command = [*pip, "install", "--no-deps", *options, *wanted["alone"]]
            subprocess.run(command, check=True)
    done.write_text(json.dumps(wanted))
    return python


def make_recipes(cases: dict[str, Any], base: list[str]) -> dict[str, list[Path]]:
    """Write every case for every target that does not refuse it."""
    made: dict[str, list[Path]] = {target: [] for target in TARGETS}
    for name, case in cases.items():
        plan = load_plan(PROJECT / "examples" / "tiny.yaml", [*base, *case["set"]])
        data = case.get("data")
        if data and "/" not in data:
            data = str(PROJECT / "examples" / data)
        for target in TARGETS:
            folder = BUILD / "projects" / target / name
            subprocess.run(["rm", "-rf", str(folder)], check=True)
            try:
                if target == "skypilot":
                    recipe = build_skypilot(plan, "trl", data)
                else:
                    recipe = build_recipe(plan, target, data)
            except InputError as error:
                print(f"{target:14} {name:14} refused: {error.problems[0].what}")
                continue
            write_recipe(recipe, folder)
            made[target].append(folder)
    return made


def read_by(python: Path, target: str, folders: list[Path], environment: Path) -> list[str]:
    """Let a trainer read its recipes, and return what it refuses."""
    script = HERE / f"read_{target.replace('-', '_')}.py"
    command = [str(python), str(script), str(environment), *map(str, folders)]
    done = subprocess.run(
        command,
        cwd=BUILD,
        env=os.environ | OFFLINE,
        capture_output=True,
        text=True,
        check=False,
    )
    said = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("### ")]
    problems = []
    for one in said:
        name = Path(one["folder"]).name
        print(f"{target:14} {name:14} {one['what']}")
        if not one["ok"]:
            problems.append(f"{target} {name}: {one['what']}")
    if len(said) != len(folders):
        problems.append(f"{target}: read {len(said)} of {len(folders)}\n{done.stderr[-3000:]}")
    return problems


def run_trl(python: Path, cases: dict[str, Any]) -> list[str]:
    """Run TRL's recipes as they are, and compare their losses with tuneplan's own."""
    problems = []
    for name in (name for name, case in cases.items() if case.get("runs")):
        folder = BUILD / "projects" / "trl" / name
        subprocess.run(["rm", "-rf", str(folder / "output")], check=True)
        done = subprocess.run(
            [str(python), "train.py"],
            cwd=folder,
            env=os.environ | OFFLINE,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not (folder / "output" / "final").is_dir():
            problems.append(f"trl {name}: {done.stderr[-2000:]}")
            continue
        states = sorted((folder / "output").glob("checkpoint-*/trainer_state.json"))
        history = json.loads(states[-1].read_text())["log_history"] if states else []
        losses = [row["loss"] for row in history if "loss" in row]
        print(f"trl            {name:14} ran; losses {[round(one, 3) for one in losses]}")
        if cases[name].get("same_losses"):
            problems += _compare(name, cases[name].get("data", "questions.jsonl"), losses)
    return problems


def _compare(name: str, data: str, losses: list[float]) -> list[str]:
    folder = BUILD / "projects" / "trl" / name
    home = BUILD / "home" / name
    subprocess.run(["rm", "-rf", str(home)], check=True)
    command = [sys.executable, "-m", "tuneplan", "finetune", str(folder / "plan.yaml")]
    command += ["--device", "cpu", "--json"]
    command += ["--data", str(PROJECT / "examples" / data)]
    subprocess.run(
        command,
        cwd=PROJECT,
        env=os.environ | OFFLINE | {"TUNEPLAN_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        check=True,
    )
    (metrics,) = home.glob("runs/*/metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    ours = [row["loss"] for row in rows if "loss" in row]
    print(f"tuneplan       {name:14} ran; losses {[round(one, 3) for one in ours]}")
    if len(ours) != len(losses):
        return [f"trl {name}: {len(losses)} steps, tuneplan took {len(ours)}"]
    largest = max(abs(a - b) for a, b in zip(losses, ours, strict=True))
    print(f"               {name:14} largest difference of a step's loss {largest:.4f}")
    too_far = largest > LARGEST_DIFFERENCE
    return [f"trl {name}: a loss is {largest:.4f} from tuneplan's"] if too_far else []


def main(only: list[str]) -> int:
    """Check all targets, or only those named; return the exit status."""
    document = read_document(HERE / "cases.yaml")
    cases = document["cases"]
    environments = read_document(HERE / "environments.yaml")
    made = make_recipes(cases, document["base"])
    problems = []
    for target in TARGETS:
        if only and target not in only:
            continue
        python = make_environment(target, environments[target])
        problems += read_by(python, target, made[target], BUILD / "environments" / target)
        if target == "trl":
            problems += run_trl(python, cases)
    print("\n".join(["", *problems]) if problems else "\nevery recipe was read and run")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

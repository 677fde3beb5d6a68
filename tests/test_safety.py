"""What a model, a file or a name could do to whoever uses it, and does not."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_code_model import TINY, write_model

from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from pages.ui.uploads import save_upload
from trainer.dryrun import dry_run
from trainer.launch import start
from trainer.pickles import has_safetensors
from trainer.probe import Observer, run_probe
from trainer.results import ProbeRequest
from trainer.run_writer import create_run
from trainer.runs import find_run, runs_folder
from trainer.tokens import read_encoder

PROJECT = Path(__file__).parents[1]
NOBODY = Observer(on_activity=lambda _: None, on_step=lambda _: None, should_stop=lambda: False)


class Marks:
    """Pickled, it leaves a file behind wherever somebody unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.write_text, (self.mark, "ran")  # pyright: ignore[reportReturnType]


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # peft asks transformers an old question
def test_a_models_own_code_does_not_run_unasked(tiny_plan: FineTunePlan, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    plan = tiny_plan.changed(model=str(write_model(tmp_path / "own", mark)))
    with pytest.raises(NoFormula):
        read_formula(plan)
    for read in (
        lambda: dry_run(plan),
        lambda: run_probe(ProbeRequest(plan=plan, device="cpu"), NOBODY),
    ):
        with pytest.raises(InputError, match="--trust-remote-code") as caught:
            read()
        assert len(caught.value.problems) == 1
        assert "own_llama" in str(caught.value)
    assert read_encoder(Path(plan.model))  # what a look at the data needs
    assert not mark.exists()
    known = tmp_path / "known"  # transformers has the architecture: the code is left alone
    write_model(known, mark)
    config = json.loads((known / "config.json").read_text())
    (known / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert dry_run(plan.changed(model=str(known)), device="cpu").peak_allocated_bytes
    assert not mark.exists()


def test_a_models_own_code_runs_where_one_run_asks_for_it_and_that_is_said_loudly(
    tiny_plan: FineTunePlan, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    plan = tiny_plan.changed(model=str(write_model(tmp_path / "own", mark)), seq_len=64)
    plan = plan.changed(micro_batch_size=1, gradient_accumulation_steps=1)
    (tmp_path / "plan.yaml").write_text(plan.to_yaml())
    command = ["probe", str(tmp_path / "plan.yaml"), "--trust-remote-code", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, str(PROJECT / "tuneplan.py"), *command, "--steps", "2", "--json"],
        capture_output=True,
        text=True,
        env=os.environ,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert mark.exists()
    warning = f"This run executes Python code from {plan.model}"
    assert f"WARNING: {warning}" in done.stderr
    found = json.loads(done.stdout)
    assert found["remote_code"].startswith(warning)
    assert found["weights"] == "pretrained"
    measured = found["measured"]["peak_allocated_bytes"]
    assert found["dry_run"]["peak_allocated_bytes"] == pytest.approx(measured, rel=0.001)
    assert "trust_remote_code" not in found["plan"]


def test_pickled_weights_are_refused_and_not_read(tiny_plan: FineTunePlan, tmp_path: Path) -> None:
    mark, model, adapter = tmp_path / "mark", tmp_path / "model", tmp_path / "adapter"
    shutil.copytree(TINY, model, ignore=shutil.ignore_patterns("*.safetensors"))
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (adapter / "model.safetensors").write_bytes(b"")  # of something else
    for file in (model / "pytorch_model.bin", adapter / "adapter_model.bin"):
        file.write_bytes(pickle.dumps(Marks(mark)))
        with pytest.raises(InputError, match="pickles"):
            has_safetensors(file.parent)
    request = ProbeRequest(plan=tiny_plan.changed(model=str(model)), device="cpu")
    with pytest.raises(InputError, match=r"pickles \(pytorch_model.bin\)"):
        run_probe(request, NOBODY)
    assert not mark.exists()
    assert has_safetensors(TINY)
    assert not has_safetensors(tmp_path)


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Where trainer calls a loader: the place, the call's last names, its keywords."""
    for file in sorted((PROJECT / "trainer").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = ".".join(ast.unparse(node.func).split(".")[-2:])
                keywords = {one.arg: one.value for one in node.keywords if one.arg}
                yield f"{file.name}:{node.lineno}", name, keywords


def test_every_loader_says_what_it_trusts() -> None:
    found = list(calls())
    loaders = [one for one in found if one[1].startswith("Auto") and "from_" in one[1]]
    assert len(loaders) >= 4
    for place, name, keywords in loaders:
        assert "trust_remote_code" in keywords, place
        if name.startswith("AutoModel") and name.endswith("from_pretrained"):
            assert ast.unparse(keywords["use_safetensors"]) == "True", place
    for place, name, keywords in found:
        if name == "torch.load":
            assert ast.unparse(keywords["weights_only"]) == "True", place
        assert name not in ("pickle.load", "pickle.loads"), place


@pytest.mark.parametrize(
    "name", ["../../etc", "/etc", "..", ".", "~", "*", "", "a\0b", "x" * 5000, "../outside"]
)
def test_the_name_of_a_run_leads_nowhere_else(tiny_plan: FineTunePlan, name: str) -> None:
    run = create_run(ProbeRequest(plan=tiny_plan, device="cpu"))
    create_run(ProbeRequest(plan=tiny_plan, device="cpu"))
    shutil.copytree(run.folder, runs_folder().parent / "outside")
    shutil.copytree(run.folder, runs_folder().parent.parent / "etc", dirs_exist_ok=True)
    with pytest.raises(InputError) as caught:
        find_run(name)
    assert len(caught.value.problems) == 1
    assert find_run(run.id) == run


def test_a_run_that_would_keep_a_key_is_not_begun(tiny_plan: FineTunePlan, home: Path) -> None:
    key = "hf_" + "Ab1" * 12
    plan = tiny_plan.changed(data={"path": f"https://ann:{key}@hub.example/data.jsonl"})
    with pytest.raises(InputError, match=r"run: plan.data.path: .*looks like a key") as caught:
        start(ProbeRequest(plan=plan, device="cpu"))
    assert key not in str(caught.value)
    assert not home.exists()


@pytest.mark.parametrize(
    "model", ["../../../evil", "a/../../../evil", "/evil/..", "..", "a/b\n\0c", "--help"]
)
def test_a_run_lies_in_the_runs_folder_whatever_its_model_is_called(
    tiny_plan: FineTunePlan, model: str
) -> None:
    run = create_run(ProbeRequest(plan=tiny_plan.changed(model=model), device="cpu"))
    assert run.folder.resolve().parent == runs_folder().resolve()
    assert not run.id.startswith((".", "-"))
    assert run.request().plan.model == model


@pytest.mark.parametrize(
    "name",
    ["../../.bashrc", "/etc/passwd", "..", "", "a\0b.jsonl", "..\\..\\x.jsonl", "é" * 500, ".part"],
)
def test_an_upload_stays_in_its_folder_whatever_it_is_called(home: Path, name: str) -> None:
    path = save_upload(name, b'{"text": "hello"}\n')
    assert path.resolve().parent == (home / "uploads").resolve()
    assert path.read_bytes() == b'{"text": "hello"}\n'
    assert not path.name.startswith((".", "-"))
    assert [file for file in home.parent.rglob("*") if file.is_file()] == [path]

"""A saved fine-tune on a Hub of the test's own: what arrives there, and what must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from local_hub import GOOD_TOKEN, READ_TOKEN, Hub, Repo, local_hub

from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.model_card import CardFacts, DataFacts, model_card
from trainer.publish import published_files

PROJECT = Path(__file__).parents[1]
WEIGHTS = bytes(range(256)) * 400

# huggingface_hub reads its settings once, so a process of its own makes every push.
PUSH = """
import json, os, sys
from pathlib import Path
from huggingface_hub import constants
from estimator.problems import InputError
from trainer.publish import check_push, push
folder = Path(sys.argv[1])
for case in json.loads(sys.argv[2]):
    os.environ["HF_TOKEN"] = case.get("token", "")
    constants.ENDPOINT = case.get("endpoint", constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = case.get("offline", False)
    said, done = [], {}
    try:
        check_push(case["id"])
    except InputError as error:
        done = {"foreseen": str(error)}
    try:
        done |= {"url": push(folder, case["id"], private=case.get("private", True),
                            on_progress=said.append)}
    except InputError as error:
        done |= {"problem": str(error)}
    print(json.dumps(done | {"said": said}), flush=True)
"""


@dataclass
class Pushes:
    hub: Hub
    answers: dict[str, dict[str, object]]
    output: str
    places: list[Path]  # the run's folder, the home, the Hub's cache
    folder: Path


def save(folder: Path, plan: FineTunePlan) -> None:
    """What a run leaves, and much that is nobody else's business."""
    folder.mkdir(parents=True)
    base = "/home/ann/secret-project/tiny-llama"
    facts = CardFacts(plan=plan, saved="adapter", data=DataFacts(name="/home/ann/answers.jsonl"))
    (folder / "README.md").write_text(model_card(facts))
    (folder / "plan.json").write_text(json.dumps(plan.to_document()))
    adapter = {"base_model_name_or_path": base, "r": 16, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    (folder / "adapter_model.safetensors").write_bytes(WEIGHTS)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    for name in ("optimizer.pt", "log.txt", "train.jsonl", "training_args.bin", "scheduler.pt"):
        (folder / name).write_text("private")
    (folder / "model.safetensors").symlink_to("/etc/hostname")
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "model.safetensors").write_text("private")


CASES = (
    {"id": "ann/tiny", "token": GOOD_TOKEN},
    {"id": "ann/seen", "token": GOOD_TOKEN, "private": False},
    {"id": "ann/open", "token": GOOD_TOKEN},
    {"id": "ann/full", "token": GOOD_TOKEN},
    {"id": "bob/tiny", "token": READ_TOKEN},
    {"id": "ann/wrong", "token": "hf_" + "x" * 34},
    {"id": "ann/nobody"},
    {"id": "tiny", "token": GOOD_TOKEN},
    {"id": "ann/ti ny", "token": GOOD_TOKEN},
    {"id": GOOD_TOKEN, "token": GOOD_TOKEN},
    {"id": "ann/offline", "token": GOOD_TOKEN, "offline": True},
    {"id": "ann/gone", "token": GOOD_TOKEN, "endpoint": "http://127.0.0.1:9"},
)


@pytest.fixture(scope="module")
def pushes(tmp_path_factory: pytest.TempPathFactory, tiny_plan: FineTunePlan) -> object:
    place = tmp_path_factory.mktemp("publish")
    folder, home, cache = place / "run" / "adapter", place / "home", place / "huggingface"
    plan = tiny_plan.changed(
        model="/home/ann/secret-project/tiny-llama",
        data={"path": "/home/ann/answers.jsonl"},
    )
    save(folder, plan)
    with local_hub() as hub:
        hub.repos["ann/open"] = Repo(private=False)
        settings = {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(cache),
            "HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # what stores large files elsewhere; here plain LFS does
            "NO_PROXY": "127.0.0.1",
        }
        home.mkdir()
        result = subprocess.run(
            [sys.executable, "-c", PUSH, str(folder), json.dumps(CASES)],
            env={**os.environ, **settings},
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        answers = map(json.loads, result.stdout.splitlines())
        ids = [str(case["id"]) for case in CASES]
        told = dict(zip(ids, answers, strict=True))
        yield Pushes(hub, told, result.stdout + result.stderr, [place], folder)


def test_adapter_card_and_plan_arrive_and_nothing_else(pushes: Pushes) -> None:
    answer = pushes.answers["ann/tiny"]
    assert answer["url"] == f"{pushes.hub.endpoint}/ann/tiny"
    assert answer["said"] == ["opening ann/tiny (private)", "uploading 5 files, 0.1 MB"]
    repo = pushes.hub.repos["ann/tiny"]
    assert repo.private
    assert set(repo.files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "plan.json",
        "tokenizer.json",
    }
    assert repo.files["adapter_model.safetensors"] == WEIGHTS
    assert repo.files["README.md"] == (pushes.folder / "README.md").read_bytes()
    assert repo.files["tokenizer.json"] == (pushes.folder / "tokenizer.json").read_bytes()


def test_no_folder_of_this_machine_is_published(pushes: Pushes) -> None:
    files = pushes.hub.repos["ann/tiny"].files
    assert b"/home/ann" not in b"".join(files.values())
    plan = json.loads(files["plan.json"])
    assert plan["model"] == "tiny-llama"
    assert plan["data"]["path"] == "answers.jsonl"
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tiny-llama"
    kept = json.loads((pushes.folder / "plan.json").read_text())
    assert kept["model"].startswith("/home/ann")  # the run's own stays what it was


def test_the_token_is_in_a_header_and_nowhere_else(pushes: Pushes) -> None:
    sent = {token for _, path, token in pushes.hub.asked if path == "/api/repos/create"}
    assert GOOD_TOKEN in sent
    assert {token for _, path, token in pushes.hub.asked if path.startswith("/stored/")} == {None}
    for token in (GOOD_TOKEN, READ_TOKEN, "hf_" + "x" * 34):
        assert token not in pushes.output
        for file in (one for place in pushes.places for one in place.rglob("*") if one.is_file()):
            assert token.encode() not in file.read_bytes(), file
        for repo in pushes.hub.repos.values():
            assert token.encode() not in b"".join(repo.files.values())


def test_public_is_only_what_was_asked_to_be(pushes: Pushes) -> None:
    assert not pushes.hub.repos["ann/seen"].private
    assert "public; what you push would be seen" in str(pushes.answers["ann/open"]["problem"])
    assert not pushes.hub.repos["ann/open"].files


@pytest.mark.parametrize(
    ("repo_id", "says"),
    [
        ("ann/full", ["limits do not allow", "storage limit reached", "free some space"]),
        ("bob/tiny", ["may not write there", "rights to create", "an account of yours"]),
        ("ann/wrong", ["does not accept the token", "hf auth login", "HF_TOKEN"]),
        ("ann/nobody", ["nobody is logged in", "hf auth login", "HF_TOKEN"]),
        ("tiny", ["names no owner", "you/tiny"]),
        ("ann/ti ny", ["no well-formed id", "owner/name"]),
        ("ann/offline", ["HF_HUB_OFFLINE is set"]),
        ("ann/gone", ["http://127.0.0.1:9", "does not answer", "connection"]),
    ],
)
def test_what_goes_wrong_comes_in_one_line_with_what_to_do(
    pushes: Pushes, repo_id: str, says: list[str]
) -> None:
    problem = str(pushes.answers[repo_id]["problem"])
    assert "\n" not in problem
    assert problem.startswith(f"push to {repo_id}: ")
    assert all(part in problem for part in says), problem
    assert repo_id == "ann/full" or repo_id not in pushes.hub.repos


def test_what_will_go_wrong_is_foreseen_before_hours_of_training(pushes: Pushes) -> None:
    foreseen = {
        repo_id: str(answer["foreseen"])
        for repo_id, answer in pushes.answers.items()
        if "foreseen" in answer
    }
    assert set(foreseen) == set(pushes.answers) - {"ann/tiny", "ann/seen", "ann/open", "ann/full"}
    assert "may only read" in foreseen["bob/tiny"]
    assert "does not accept the token" in foreseen["ann/wrong"]
    assert "nobody is logged in" in foreseen["ann/nobody"]
    assert not any("\n" in problem for problem in foreseen.values())


def test_a_folder_without_safetensors_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no adapter and no model"):
        published_files(tmp_path)
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match="pickles"):
        published_files(tmp_path)

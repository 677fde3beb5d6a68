import json
import os
from pathlib import Path

import pytest

from estimator.models import resolve_model
from estimator.problems import InputError

CONFIG = {"model_type": "llama", "hidden_size": 64}


def write(folder: Path, content: object) -> Path:
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text)
    return folder


def test_a_folder_and_its_config_json_are_the_same_model(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", CONFIG)
    for name in (folder, folder / "config.json"):
        found = resolve_model(str(name))
        assert found.config == CONFIG
        assert found.folder == folder
        assert found.num_parameters is None
        assert str(folder) in found.source


def test_a_folder_comes_before_a_bundled_model_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "Qwen/Qwen3-8B"
    assert resolve_model(name).num_parameters == 8_190_735_360
    (tmp_path / "Qwen").mkdir()
    write(tmp_path / name, CONFIG)
    assert resolve_model(name).config == CONFIG


def test_a_bundled_id_needs_no_network_and_says_its_source() -> None:
    found = resolve_model("meta-llama/llama-2-7b-chat-hf")
    assert found.name == "meta-llama/Llama-2-7b-chat-hf"
    assert found.num_parameters == 6_738_415_616
    assert found.folder is None
    assert "same shape as meta-llama/Llama-2-7b-hf" in found.source


def test_of_a_multimodal_model_the_text_part_is_taken(tmp_path: Path) -> None:
    text = {"hidden_size": 640, "model_type": "gemma3_text"}
    whole = {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1}}
    assert resolve_model(str(write(tmp_path / "a", whole))).config == text
    nameless = {"model_type": "llava", "tie_word_embeddings": True, "text_config": {"x": 1}}
    config = resolve_model(str(write(tmp_path / "b", nameless))).config
    assert config == {"model_type": "llava", "tie_word_embeddings": True, "x": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"model_type": "llama", ', "line 1"),
        ("[1, 2]", "a mapping"),
        ({"hidden_size": 64}, "no model_type"),
        ({"model_type": None}, "no model_type"),
    ],
)
def test_a_config_json_that_cannot_be_used_is_a_problem(
    tmp_path: Path, content: object, says: str
) -> None:
    with pytest.raises(InputError, match=says) as caught:
        resolve_model(str(write(tmp_path / "model", content)))
    (problem,) = caught.value.problems
    assert problem.fix


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Llama-2-7b", "did you mean meta-llama/Llama-2-7b-hf"),
        ("gpt2", "openai-community/gpt2"),
        ("/no/such/folder", "no such folder or file"),
        ("./folder", "no such folder or file"),
        ("models/config.json", "no such folder or file"),
        ("~no-such-user/model", "no such folder or file"),
        ("x" * 300, "no such folder or file"),
        ("/" + "x" * 300, "no such folder or file"),
    ],
)
def test_an_unknown_name_is_answered_with_what_could_be_meant(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resolve_model(name)


def test_a_folder_without_config_json_is_a_problem_with_a_fix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no config\.json") as caught:
        resolve_model(str(tmp_path))
    assert "save_pretrained" in caught.value.problems[0].fix


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is locked to root")
def test_a_locked_folder_is_a_problem_with_a_fix(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", CONFIG)
    folder.chmod(0)
    try:
        for name in (folder, folder / "config.json"):
            with pytest.raises(InputError) as caught:
                resolve_model(str(name))
            assert caught.value.problems[0].fix
    finally:
        folder.chmod(0o700)

import re

import pytest

from estimator.catalogue import (
    bundled_models,
    bundled_spelling,
    close_bundled_ids,
    find_bundled_model,
)


def test_every_model_says_what_it_is_and_where_that_comes_from() -> None:
    cards = bundled_models()
    assert len(cards) >= 137
    for card in cards:
        assert card.source
        assert card.license
        assert card.config["model_type"]
        assert re.fullmatch(r"20\d\d-[01]\d", card.released), card.id
        assert 0 < card.active_parameters <= card.parameters


def test_no_id_stands_for_two_models() -> None:
    ids = [name.lower() for card in bundled_models() for name in card.ids]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("name", "card_id"),
    [
        ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-7b-hf"),
        ("META-LLAMA/llama-2-7B-HF", "meta-llama/Llama-2-7b-hf"),
        ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-hf"),
        ("qwen/qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct"),
    ],
)
def test_a_model_is_found_by_any_of_its_ids_in_any_case(name: str, card_id: str) -> None:
    card = find_bundled_model(name)
    assert card
    assert card.id == card_id


def test_an_id_is_spelled_as_the_hub_spells_it() -> None:
    assert bundled_spelling("qwen/qwen2.5-7b") == "Qwen/Qwen2.5-7B"
    assert bundled_spelling("Someone/Else") == "Someone/Else"


def test_a_near_miss_is_answered_with_what_was_meant() -> None:
    assert find_bundled_model("Llama-2-7b") is None
    assert close_bundled_ids("Llama-2-7b")[0] == "meta-llama/Llama-2-7b-hf"
    assert close_bundled_ids("Qwen2.5-7B")[0] == "Qwen/Qwen2.5-7B"
    assert close_bundled_ids("zzzzzzzz") == []


def test_a_mixture_of_experts_uses_a_part_of_its_parameters() -> None:
    mixtral = find_bundled_model("mistralai/Mixtral-8x7B-Instruct-v0.1")
    dense = find_bundled_model("Qwen/Qwen3-8B")
    assert mixtral
    assert dense
    assert mixtral.active_parameters < mixtral.parameters / 3
    assert dense.active_parameters == dense.parameters

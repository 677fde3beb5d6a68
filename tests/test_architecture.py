import pytest

from estimator.architecture import Architecture, NotModelled, modelled_types
from estimator.catalogue import bundled_models, find_bundled_model
from estimator.problems import InputError

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OLD_NAMES = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 128},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8, "vocab_size": 128},
    "bloom": {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 128},
    "opt": SMALL | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "qwen3_moe": SMALL | {"num_experts": 4, "moe_intermediate_size": 48},
    "mixtral": SMALL | {"num_local_experts": 4},
    "olmoe": SMALL | {"num_experts": 4},
}
VARIANTS = [
    ("llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
    ("llama", {"tie_word_embeddings": True, "num_key_value_heads": None}),
    ("qwen3", {"attention_bias": True, "head_dim": 32}),
    ("stablelm", {"use_qkv_bias": True}),
    ("starcoder2", {"use_bias": False}),
]


def test_every_described_bundled_model_has_the_catalogues_parameter_count():
    counted = {}
    for card in bundled_models():
        try:
            counted[card.id] = Architecture.from_config(card.config).num_parameters
        except NotModelled:
            continue
    assert counted == {card.id: card.parameters for card in bundled_models() if card.id in counted}
    assert len(counted) > 100


def test_every_described_type_is_among_the_bundled_models():
    assert set(modelled_types()) <= {card.config["model_type"] for card in bundled_models()}


@pytest.mark.parametrize(
    ("model_type", "config"),
    [(name, OLD_NAMES.get(name, SMALL)) for name in modelled_types()]
    + [(name, SMALL | changes) for name, changes in VARIANTS],
)
def test_named_shapes_are_those_of_transformers(model_type, config):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with torch.device("meta"):
        theirs = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**config))
    theirs.tie_weights()

    ours = Architecture.from_config({"model_type": model_type, **config})

    assert ours.named_shapes() == {
        name: tuple(parameter.shape) for name, parameter in theirs.named_parameters()
    }
    linears = {
        name.partition(".0.")[2]: (module.in_features, module.out_features)
        for name, module in theirs.named_modules()
        if isinstance(module, torch.nn.Linear) and ".0." in name
    }
    found = {linear.name: (linear.in_features, linear.out_features) for linear in ours.linears}
    assert found == linears or model_type == "gpt2"  # GPT-2 has Conv1D where others have Linear


def test_tied_embeddings_are_counted_once():
    config = {"model_type": "llama", **SMALL}
    tied = Architecture.from_config(config | {"tie_word_embeddings": True})
    untied = Architecture.from_config(config | {"tie_word_embeddings": False})
    assert untied.num_parameters - tied.num_parameters == 128 * 64


def test_a_text_configuration_without_sizes_takes_the_familys_own():
    card = find_bundled_model("google/gemma-3-4b-it")
    assert card
    left_out = ("num_attention_heads", "num_key_value_heads", "head_dim")
    config = {key: value for key, value in card.config.items() if key not in left_out}
    assert Architecture.from_config(config).num_parameters == card.parameters


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"model_type": "mamba"}, "--dry-run"),
        ({"model_type": "stablelm", **SMALL, "qk_layernorm": True}, "qk_layernorm"),
    ],
)
def test_what_is_not_described_is_refused_with_the_way_out(config, says):
    with pytest.raises(NotModelled, match=says) as caught:
        Architecture.from_config(config)
    assert caught.value.model_type == config["model_type"]


@pytest.mark.parametrize("bad", [None, 0, -1, "4096", 64.0, True])
def test_an_impossible_size_is_named(bad):
    config = {"model_type": "llama", **SMALL, "hidden_size": bad}
    with pytest.raises(InputError, match="hidden_size"):
        Architecture.from_config(config)

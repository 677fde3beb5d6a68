import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimator.architecture import Architecture
from estimator.catalogue import find_bundled_model
from estimator.compare import compare_methods
from estimator.estimate import COMPONENTS, MemoryEstimate
from estimator.gpus import find_gpu
from estimator.memory import NoFormula, read_formula
from estimator.plan import FineTunePlan, parse_plan
from reports.explain import full_states

LLAMA = "meta-llama/Llama-2-7b-hf"
GPU = "A100 80GB SXM"
MIXED = {"weights_dtype": "fp32", "autocast_dtype": "bf16"}
PURE = {"autocast_dtype": "none"}
# Sizes in whole multiples of 2 MiB, so that the allocator splits every block without a rest
SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "vocab_size": 16384,
    "max_position_embeddings": 4096,
}


def plan(**keys: object) -> FineTunePlan:
    return parse_plan({"model": LLAMA, "method": "lora", "seq_len": 512, "gpu": GPU, **keys})


def read(**keys: object) -> MemoryEstimate:
    return read_formula(plan(**keys))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of configurations, one model_type each."""
    folder = tmp_path_factory.mktemp("models")
    for model_type, changes in {
        "llama": {},
        "qwen2": {},
        "qwen3": {"head_dim": 128},
        "smollm3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        "mistral": {"sliding_window": None},
    }.items():
        config = {"model_type": model_type, "tie_word_embeddings": False, **SHAPE, **changes}
        (folder / model_type).mkdir()
        (folder / model_type / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.filterwarnings("ignore:.*:FutureWarning")  # peft asks transformers an old question
@pytest.mark.parametrize(
    ("model_type", "keys"),
    [
        ("llama", {"method": "full", **PURE, "gradient_checkpointing": False}),
        ("llama", {"method": "full", **MIXED}),
        ("llama", {"method": "last_layers", "seq_len": 4096}),
        ("llama", {"method": "full", "optimizer": "adamw_torch", "seq_len": 256}),
        ("llama", {"method": "full", "gradient_accumulation_steps": 1, "keep_outputs": True}),
        ("llama", {"method": "lora", "adapter": {"dropout": 0.1}}),
        ("llama", {"method": "lora", **PURE, "gradient_checkpointing": False}),
        ("llama", {"method": "qlora", "double_quant": False, "optimizer": "paged_adamw_8bit"}),
        ("llama", {"method": "qlora", "kbit_preparation": False, "quantization": "fp4"}),
        ("qwen2", {"method": "lora", "adapter": {"target_modules": ["q_proj", "v_proj"]}}),
        ("qwen3", {"method": "lora", "gradient_checkpointing": False}),
        ("smollm3", {"method": "full"}),
        ("mistral", {"method": "qlora", "optimizer": "adamw_8bit"}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(map(str, value.values())),
)
def test_it_agrees_with_the_dry_run(models: Path, model_type: str, keys: dict[str, object]) -> None:
    from trainer.dryrun import dry_run

    defaults = {"seq_len": 1024, "micro_batch_size": 2, "gradient_accumulation_steps": 2}
    step = plan(model=str(models / model_type), **(defaults | keys))
    formula, traced = read_formula(step), dry_run(step)

    assert formula.parameters == traced.parameters
    assert formula.peak_phase == traced.peak_phase
    for phase in ("forward", "backward", "optimizer"):
        assert formula.phases_bytes[phase] == pytest.approx(traced.phases_bytes[phase], rel=0.01)
    assert formula.peak_allocated_bytes == pytest.approx(traced.peak_allocated_bytes, rel=0.01)
    for component in ("weights", "quantization_state", "adapters", "gradients", "workspace"):
        expected = traced.components_bytes[component]
        assert formula.components_bytes[component] == pytest.approx(expected, rel=0.01, abs=4096)


@pytest.mark.parametrize("steps", [1, 16])
def test_mixed_precision_with_adam_takes_sixteen_bytes_a_parameter(steps: int) -> None:
    estimate = read(method="full", **MIXED, gradient_accumulation_steps=steps)
    states = [
        estimate.components_bytes[kind] for kind in ("weights", "gradients", "optimizer_states")
    ]
    assert states == [4 * 6_738_415_616, 4 * 6_738_415_616, 8 * 6_738_415_616]
    # where gradients come and go with a large batch, the peak holds fewer than 16 bytes of each
    large = read(method="full", **MIXED, gradient_accumulation_steps=steps, micro_batch_size=256)
    for line in (full_states([estimate]), full_states([large])):
        assert line
        for figure in ("4 + 4 + 8 = 16 bytes", "7e9", "112 GB", "107.8 GB", "100.4 GiB"):
            assert figure in line


@pytest.mark.parametrize(
    ("model", "textbook"),
    [
        ("Qwen/Qwen2.5-1.5B", "24 GB counts 1.5e9"),
        ("Qwen/Qwen2.5-0.5B", "8 GB counts 0.5e9"),
        ("HuggingFaceTB/SmolLM2-135M", None),
    ],
)
def test_the_textbooks_parameters_are_those_of_the_models_name(
    model: str, textbook: str | None
) -> None:
    text = full_states([read(model=model, method="full", **MIXED)])
    assert text
    assert "16 bytes x" in text
    assert textbook in text if textbook else "textbook" not in text
    for sentence in text.split(". "):
        assert sentence[0].isupper()


def test_each_gpu_is_judged_by_the_kernels_it_takes() -> None:
    """No flash attention on a T4: a step takes more there, or cannot be judged."""
    names = ["Tesla T4", GPU, "H100 SXM 80GB"]
    gpus = [find_gpu(name) for name in names]
    keys = {"method": "qlora", "seq_len": 2048, "gradient_checkpointing": False}
    llama_3 = plan(model="meta-llama/Llama-3.1-8B", **keys)
    assert [fit.name for fit in read_formula(llama_3, gpus=gpus).gpus] == names
    on_t4 = read_formula(llama_3.changed(gpu="Tesla T4")).peak_allocated_bytes
    assert on_t4 > read_formula(llama_3).peak_allocated_bytes + 32 * 2048**2 * 4  # its scores

    flash = read_formula(llama_3.changed(attention="flash_attention_2"), gpus=gpus)
    assert [fit.name for fit in flash.gpus] == names[1:]
    (said,) = [line for line in flash.assumptions if "Not judged on Tesla T4" in line]
    assert "no flash attention" in said

    fp16 = {"weights_dtype": "fp16", "autocast_dtype": "fp16"}
    one = read_formula(plan(method="qlora"), gpus=gpus)
    for fit in one.gpus:  # on a GPU, a step is the same whichever GPU it was asked for
        there = read(method="qlora", gpu=fit.name, **(fp16 if fit.name == "Tesla T4" else {}))
        assert fit.headroom_bytes == fit.memory_bytes - there.smallest_need_bytes
    assert [fit.name for fit in one.gpus] == names
    assert any("No bf16 arithmetic on" in line and "Tesla T4" in line for line in one.assumptions)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"gpu": "H100 SXM"}, True),
        ({"gpu": GPU}, False),
        ({"gpu": "H100 SXM", "attention_backend": "flash"}, False),
    ],
)
def test_where_cudnn_may_take_over_the_reading_says_so(keys: dict[str, object], says: bool) -> None:
    assert any("cuDNN" in line for line in read(**keys).assumptions) is says


PLANS = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["full", "last_layers", "lora", "qlora"]),
        "weights_dtype": st.sampled_from(["bf16", "fp32"]),
        "gradient_checkpointing": st.booleans(),
        "gradient_accumulation_steps": st.sampled_from([1, 4]),
        "optimizer": st.sampled_from(["adamw_torch", "adamw_torch_fused", "adamw_8bit", "sgd"]),
        "keep_outputs": st.booleans(),
        "micro_batch_size": st.integers(1, 8),
        "seq_len": st.integers(1, 4096),
        "adapter": st.fixed_dictionaries(
            {"r": st.integers(1, 256), "dropout": st.sampled_from([0.0, 0.1])}
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(keys=PLANS)
def test_its_parts_make_up_the_whole(keys: dict[str, object]) -> None:
    estimate = read(**keys)
    sizes = [estimate.components_bytes[component] for component in COMPONENTS]
    assert all(isinstance(size, int) and size >= 0 for size in sizes)
    assert sum(size for size in sizes if size) == estimate.peak_allocated_bytes
    phases = {phase: size for phase, size in estimate.phases_bytes.items() if size is not None}
    assert estimate.peak_allocated_bytes == max(phases.values()) == phases[estimate.peak_phase]


@settings(max_examples=60, deadline=None)
@given(keys=PLANS, more=st.sampled_from(["seq_len", "micro_batch_size", "r"]))
def test_more_never_takes_less(keys: dict[str, object], more: str) -> None:
    larger = json.loads(json.dumps(keys))
    holder = larger["adapter"] if more == "r" else larger
    holder[more] += 1
    assert read(**larger).peak_allocated_bytes >= read(**keys).peak_allocated_bytes


def test_every_bundled_decoder_of_a_described_type_is_read() -> None:
    for name in ("meta-llama/Llama-3.1-405B", "Qwen/Qwen3-32B", "mistralai/Mistral-7B-v0.1"):
        card = find_bundled_model(name)
        assert card
        estimate = read(model=name, method="qlora")
        assert estimate.parameters.total == card.parameters
        in_4_bits = card.parameters // 2
        assert in_4_bits < estimate.peak_allocated_bytes < card.parameters


def test_the_quantised_weights_leave_out_what_bitsandbytes_leaves_out() -> None:
    step = read(method="qlora", double_quant=False, kbit_preparation=False)
    shapes = Architecture.from_config(_config(LLAMA)).named_shapes()
    plain = sum(
        shape[0] * (shape[1] if len(shape) > 1 else 1)
        for name, shape in shapes.items()
        if "proj" not in name
    )
    packed = 6_738_415_616 - plain
    assert step.components_bytes["weights"] == packed // 2 + 2 * plain
    assert step.components_bytes["quantization_state"] == 4 * packed // 64 + 32 * 7 * 512


@cache
def _config(name: str) -> dict[str, object]:
    card = find_bundled_model(name)
    return card.config if card else {}


def test_large_states_of_a_paged_optimizer_are_not_on_the_gpu() -> None:
    full = {"method": "full", "seq_len": 1}
    paged = read(**full, optimizer="paged_adamw_32bit")
    plain = read(**full, optimizer="adamw_torch_fused", weights_dtype="fp32", **PURE)
    assert (paged.components_bytes["optimizer_states"] or 0) < 2**23
    assert plain.components_bytes["optimizer_states"] == 8 * 6_738_415_616


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"model": "deepseek-ai/DeepSeek-V3"}, "deepseek_v3"),
        ({"method": "prefix_tuning"}, "prefix_tuning"),
        ({"method": "bitfit"}, "no biases"),
        ({"model": "microsoft/phi-4", "method": "ia3"}, "IA³"),
        ({"model": "openai-community/gpt2", "attention": "eager", "seq_len": 8}, "dropout"),
        ({"model": "mistralai/Mixtral-8x7B-v0.1"}, "all-linear"),
        ({"model": "Qwen/Qwen3-30B-A3B", "method": "full", "gpu": "Tesla T4"}, "loops over"),
        ({"checkpointing_reentrant": True}, "non-reentrant"),
        ({"adapter": {"modules_to_save": ["lm_head"]}}, "beside it"),
        ({"adapter": {"use_dora": True}}, "DoRA"),
        ({"adapter": {"target_modules": ["lm_head"]}}, "adapters on"),
        ({"loss": "chunked"}, "chunked"),
        ({"parallel": {"strategy": "fsdp", "data_parallel_size": 2}}, "fsdp"),
        ({"weights_dtype": "fp16"}, "16-bit"),
        ({"model": "mistralai/Mistral-7B-v0.1", "seq_len": 8192}, "sliding window"),
        ({"method": "last_layers", "num_trained_layers": 33}, "32 layers"),
    ],
)
def test_it_refuses_what_it_does_not_describe_in_one_sentence(
    keys: dict[str, object], says: str
) -> None:
    with pytest.raises(NoFormula, match=says) as caught:
        read(**keys)
    assert caught.value.reason.endswith(".")
    assert "\n" not in caught.value.reason


def test_methods_side_by_side_come_in_the_order_asked_for() -> None:
    full, lora, qlora = compare_methods(plan(method="full", **MIXED))
    assert [one.plan.method for one in (full, lora, qlora)] == ["full", "lora", "qlora"]
    assert full.peak_allocated_bytes > lora.peak_allocated_bytes > qlora.peak_allocated_bytes
    assert qlora.plan.quantization == "nf4"
    assert {gpu.name: gpu.fits for gpu in qlora.gpus}["RTX 4090"] == "yes"
    assert {gpu.name: gpu.fits for gpu in full.gpus}["RTX 4090"] == "no"
    (only,) = compare_methods(plan(), methods=["lora"], gpus=[plan().gpu_spec])
    assert [gpu.name for gpu in only.gpus] == [GPU]


def test_what_only_an_allocator_knows_is_unknown() -> None:
    estimate = read()
    assert estimate.peak_reserved_bytes is None
    assert estimate.smallest_fit_bytes is None
    assert estimate.total_bytes is None
    assert estimate.basis == "formula"

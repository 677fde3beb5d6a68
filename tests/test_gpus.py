import pytest

from estimator.gpus import bundled_gpus, common_gpus, find_gpu
from estimator.judge import same_attention
from estimator.plan import parse_plan
from estimator.problems import InputError


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("RTX 4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("t4", "Tesla T4"),
        ("L4", "L4"),
        ("h100 sxm", "H100 SXM 80GB"),
        ("A100-80GB-SXM", "A100 80GB SXM"),
    ],
)
def test_a_gpu_is_found_by_what_people_call_it(name: str, gpu: str) -> None:
    assert find_gpu(name).name == gpu


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h100", "fits 3 bundled GPUs"),
        ("RTX 4091", "did you mean RTX 4090"),
        ("", "not a bundled GPU"),
    ],
)
def test_an_unclear_name_is_answered_with_the_choices(name: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        find_gpu(name)
    assert caught.value.problems[0].allowed


def test_every_gpu_says_where_its_facts_come_from() -> None:
    for gpu in bundled_gpus():
        assert "memory" in gpu.source
        assert "rates" in gpu.source
        assert "verify" not in gpu.source
        assert gpu.memory_bytes > 10 * 2**30
    assert len({gpu.name for gpu in bundled_gpus()}) == len(bundled_gpus())


def test_memory_is_what_the_driver_reports_not_the_number_on_the_box() -> None:
    assert find_gpu("T4").memory_gib < 15
    assert find_gpu("RTX 4090").memory_gib < 24
    assert find_gpu("H100 SXM 80GB").memory_gib < 80


def test_common_gpus_come_smallest_first() -> None:
    sizes = [gpu.memory_gib for gpu in common_gpus()]
    assert sizes == sorted(sizes)
    assert len(sizes) >= 8


def test_a_plan_can_describe_a_gpu_of_its_own() -> None:
    gpu = {"name": "Mine", "memory_gib": 12, "compute_capability": 7.5}
    plan = parse_plan({"model": "m", "method": "lora", "gpu": gpu})
    assert plan.gpu_spec.memory_bytes == 12 * 2**30
    assert parse_plan(plan.to_document()).gpu_spec == plan.gpu_spec
    with pytest.raises(InputError, match=r"memory_gib"):
        parse_plan({"model": "m", "method": "lora", "gpu": {"name": "Mine", "memory_gib": -1}})


@pytest.mark.parametrize(
    ("keys", "on_t4"),
    [
        ({"gpu": "A100 80GB SXM"}, False),  # no flash on the T4
        ({"gpu": "A100 80GB SXM", "attention": "eager"}, True),
        ({"gpu": "A100 80GB SXM", "attention_backend": "math"}, True),
        ({"gpu": "A100 80GB SXM", "attention": "flash_attention_2"}, False),
        ({"gpu": "Tesla T4"}, True),
        ({"gpu": "A100 80GB SXM", "model": "no/such-model"}, False),
    ],
)
def test_attention_is_the_same_on_gpus_that_take_the_same_kernel(
    keys: dict[str, object], on_t4: bool
) -> None:
    plan = parse_plan({"model": "meta-llama/Llama-3.1-8B", "method": "qlora", **keys})
    names = [gpu.name for gpu in same_attention(plan, (plan.gpu_spec, *common_gpus()))]
    assert names[0] == plan.gpu
    assert ("Tesla T4" in names) == on_t4
    assert ("RTX 4090" in names) == (keys["gpu"] == "A100 80GB SXM")

"""The chunked and the Liger loss learn what the default one learns, and need less."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cpu_truth import Case

from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from trainer.build import prepare
from trainer.data import random_batches
from trainer.dryrun import dry_run
from trainer.losses import IGNORED, liger_chunk_tokens
from trainer.skeleton import build_skeleton, transformers_config
from trainer.weights import fill_at_random

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning")

FULL = {"method": "full", "seq_len": 200, "gradient_checkpointing": False}
SAVED = {"modules_to_save": ["embed_tokens", "lm_head"]}


def loss_and_gradients(plan: FineTunePlan) -> tuple[float, dict[str, torch.Tensor]]:
    cpu = torch.device("cpu")
    torch.manual_seed(0)
    config = transformers_config(resolve_model(plan.model).config, plan.model)
    base = build_skeleton(plan, config, plan.model)
    fill_at_random(base, plan, cpu)
    model = prepare(base, plan)
    torch.manual_seed(1)
    batch = next(random_batches(plan, config.vocab_size, cpu))
    batch["labels"] = batch["labels"].clone()
    batch["labels"][:, :7] = IGNORED
    loss = model(**batch, use_cache=False).loss
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return loss.item(), gradients


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("llama_tied", FULL),
        ("gemma2", FULL),  # soft caps
        ("cohere", FULL),  # logits times a number
        ("phi", FULL),  # a head with a bias
        ("mixtral", FULL),  # a second loss, of the router
        ("llama", {"method": "qlora", "seq_len": 200}),
        ("llama", {"method": "lora", "seq_len": 200, "adapter": SAVED}),
        ("llama", {"method": "prompt_tuning", "seq_len": 200}),
    ],
)
def test_loss_and_gradients_are_those_of_the_default_loss(
    tmp_path: Path, family: str, keys: dict[str, Any]
) -> None:
    value, gradients = loss_and_gradients(Case(family, keys).plan(tmp_path))
    for loss in ("chunked", "liger"):
        plan = Case(family, keys | {"loss": loss}).plan(tmp_path)
        same_value, same_gradients = loss_and_gradients(plan)
        assert same_value == pytest.approx(value, rel=1e-6)
        assert same_gradients.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(same_gradients[name], gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "keys", "says"),
    [
        ("recurrent_gemma", FULL, "does more with its logits"),
        (
            "llama",
            {"method": "lora", "adapter": {"target_modules": ["lm_head"]}},
            "not a plain one",
        ),
    ],
)
def test_a_head_that_it_does_not_suit_is_refused_by_name(
    tmp_path: Path, family: str, keys: dict[str, Any], says: str
) -> None:
    plan = Case(family, keys | {"loss": "liger"}).plan(tmp_path)
    with pytest.raises(InputError, match=says) as caught:
        dry_run(plan, device="cpu")
    (problem,) = caught.value.problems
    assert problem.where == "loss"
    assert "set loss:" in problem.fix


def test_the_logits_are_never_whole(tmp_path: Path) -> None:
    keys = FULL | {"seq_len": 512, "micro_batch_size": 8}
    peaks = {
        loss: dry_run(Case("llama", keys | {"loss": loss}).plan(tmp_path))
        for loss in ("default", "chunked", "liger")
    }
    whole = 8 * 512 * 2048 * 4
    logits = {loss: peak.components_bytes["logits"] or 0 for loss, peak in peaks.items()}
    assert logits["default"] >= 2 * whole
    for loss in ("chunked", "liger"):
        assert logits[loss] <= whole / 4
        assert peaks[loss].peak_allocated_bytes < peaks["default"].peak_allocated_bytes - whole


@pytest.mark.parametrize(
    ("num_tokens", "hidden_size", "vocab_size", "expected"),
    [
        (4096 * 4, 4096, 32_000, 2048),  # the example in Liger-Kernel's source
        (2048, 4096, 128_256, 64),
        (100, 128, 100, 100),  # one chunk never exceeds the tokens there are
    ],
)
def test_liger_takes_chunks_as_large_as_the_hidden_states(
    num_tokens: int, hidden_size: int, vocab_size: int, expected: int
) -> None:
    assert liger_chunk_tokens(num_tokens, hidden_size, vocab_size) == expected

"""Dry runs beside the CPU allocator's own peak of real steps, case by case.

The witness (profiled_steps.py) runs in a process of its own. `python tests/cpu_truth.py` prints
the table. What remains of an error is the state of the random numbers, which checkpointing keeps on
the host: 5 KiB a layer, and none on a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estimator.plan import FineTunePlan, parse_plan
from trainer.dryrun import dry_run

PROJECT = Path(__file__).parents[1]

# Two layers, and activations of several MiB, so that 0.1 % is some 20 KiB.
_LLAMA_LIKE = {
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 2048,
    "head_dim": 32,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _LLAMA_LIKE,
    "llama_tied": _LLAMA_LIKE | {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": _LLAMA_LIKE,  # biases in the attention
    "qwen3": _LLAMA_LIKE,  # norms of queries and keys
    "mistral": _LLAMA_LIKE | {"sliding_window": 64},
    "gemma2": _LLAMA_LIKE | {"sliding_window": 64, "query_pre_attn_scalar": 32},  # soft caps
    "gemma3_text": _LLAMA_LIKE | {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "qwen2_moe": _LLAMA_LIKE
    | {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 176,
        "shared_expert_intermediate_size": 176,
    },
    "mixtral": _LLAMA_LIKE | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {"n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": 2048},
    "gpt_neox": {name: _LLAMA_LIKE[name] for name in _LLAMA_LIKE if name != "head_dim"},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A plan in few words: a family (any that is shaped like Llama), and the plan's keys."""

    family: str
    keys: dict[str, Any]

    @property
    def name(self) -> str:
        """What the case is called in the table and by the tests."""
        words = [f"{key}={value}" for key, value in self.keys.items() if key != "method"]
        return " ".join([self.family, self.keys["method"], *words]).replace("'", "")

    def plan(self, folder: Path) -> FineTunePlan:
        """Return the plan, its model written into ``folder``."""
        model = folder / self.family
        model.mkdir(exist_ok=True)
        config = {"model_type": self.family} | FAMILIES.get(self.family, _LLAMA_LIKE)
        (model / "config.json").write_text(json.dumps(config))
        document = {
            "model": str(model),
            "weights_dtype": "fp32",
            "autocast_dtype": "none",
            "optimizer": "adamw_torch",
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "seq_len": 256,
        }
        return parse_plan(document | self.keys)


def _cases() -> list[Case]:
    on, off = {"gradient_checkpointing": True}, {"gradient_checkpointing": False}
    larger = {"micro_batch_size": 4}  # what the host keeps of random numbers weighs less
    saved = {"modules_to_save": ["embed_tokens", "lm_head"]}
    grid = [
        Case(family, {"method": method} | checkpointing | _dtypes(family))
        for family in FAMILIES
        for method, checkpointing in (("full", off), ("lora", on))
    ]
    attention = [
        Case(family, {"method": method, "attention": "eager"} | checkpointing)
        for family, method, checkpointing in (
            ("llama", "full", on),
            ("qwen2", "lora", off),
            ("gemma2", "qlora", on),
            ("gpt2", "full", on),
        )
    ]
    methods = [
        ("llama", {"method": "qlora"} | on),
        ("mistral", {"method": "qlora", "quantization": "fp4", "double_quant": False} | off),
        ("llama", {"method": "qlora", "quantization": "int8"} | off),
        ("llama", {"method": "last_layers", "num_trained_layers": 1} | off),
        ("llama", {"method": "lora", "adapter": {"use_dora": True}} | off),
        ("qwen2", {"method": "lora", "adapter": {"use_rslora": True, "dropout": 0.1}} | on),
        ("qwen2", {"method": "bitfit"} | off),
        ("gpt2", {"method": "bitfit"} | on),
        ("llama", {"method": "ia3"} | off),
        ("mistral", {"method": "prompt_tuning"} | on),
        ("llama", {"method": "prefix_tuning"} | off),
        ("gemma2", {"method": "ia3"} | on),
        ("llama", {"method": "lora", "adapter": saved} | on),
        ("llama_tied", {"method": "lora", "loss": "chunked", "adapter": saved} | off),
        ("llama_tied", {"method": "full", "seq_len": 16} | off),  # two gradients of one weight
        ("llama", {"method": "full", "loss": "chunked"} | on),
        ("gemma2", {"method": "qlora", "loss": "chunked"} | on),
        ("gpt2", {"method": "full", "loss": "chunked"} | off),
        ("mistral", {"method": "prompt_tuning", "loss": "chunked"} | on | larger),
        ("llama", {"method": "full", "loss": "liger"} | on),
        ("llama_tied", {"method": "full", "loss": "liger"} | off),
        ("gemma2", {"method": "full", "loss": "liger"} | on),
        ("llama", {"method": "lora", "loss": "liger", "adapter": saved} | on),
        ("llama", {"method": "qlora", "loss": "liger", "autocast_dtype": "bf16"} | on | larger),
        ("llama", {"method": "full", "checkpointing_reentrant": True} | on),
        ("qwen2", {"method": "lora", "checkpointing_reentrant": True} | on),
        ("mistral", {"method": "qlora", "checkpointing_reentrant": True} | on),
        ("gpt2", {"method": "last_layers", "checkpointing_reentrant": True} | on),
        ("llama", {"method": "full", "autocast_dtype": "bf16"} | off),
        ("llama", {"method": "full", "weights_dtype": "bf16"} | on),
        ("qwen2_moe", {"method": "full", "weights_dtype": "bf16"} | on),
    ]
    return grid + attention + [Case(family, keys) for family, keys in methods]


def _dtypes(family: str) -> dict[str, Any]:
    """Experts are multiplied in groups, for which fake tensors know only bf16."""
    return {"weights_dtype": "bf16"} if "num_experts_per_tok" in FAMILIES[family] else {}


CASES = _cases()


def compare(cases: list[Case]) -> Iterator[tuple[Case, int, int]]:
    """Yield each case with the dry run's peak and the allocator's, in bytes, as they are found.

    Raises:
        RuntimeError: The witness failed.
    """
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile("w+") as complaints:
        plans = [case.plan(Path(name)) for case in cases]
        asked = Path(name) / "plans.jsonl"
        asked.write_text("".join(f"{json.dumps(plan.to_document())}\n" for plan in plans))
        with (
            asked.open() as questions,
            subprocess.Popen(
                [sys.executable, "tests/profiled_steps.py"],
                cwd=PROJECT,
                env=os.environ | {"PYTHONPATH": str(PROJECT)},
                stdin=questions,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            ) as witness,
        ):
            for case, plan in zip(cases, plans, strict=True):
                traced = dry_run(plan, device="cpu").peak_allocated_bytes
                answer = witness.stdout.readline() if witness.stdout else ""
                if not answer:
                    complaints.seek(0)
                    raise RuntimeError(complaints.read())
                yield case, traced, int(answer)


def main() -> None:
    """Print the table."""
    for case, traced, true in compare(CASES):
        error = f"{100 * (traced - true) / true:+.3f} %"
        sys.stdout.write(f"{case.name:90} {traced:>12,} {true:>12,} {error:>10}\n")


if __name__ == "__main__":
    main()

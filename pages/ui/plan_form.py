"""The form that describes a plan. Each widget is bound to the address: a link opens it filled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import streamlit as st

from estimator.catalogue import bundled_models, find_bundled_model
from estimator.compare import stored_dtypes
from estimator.gpus import bundled_gpus
from estimator.plan import FineTunePlan, Optimizer, parse_plan
from pages.ui.show import METHOD_NAMES, method_name
from reports.units import count

METHODS = tuple(METHOD_NAMES)

TINY_MODEL = "examples/tiny-llama"

_PROJECT = Path(__file__).parents[2]
_TINY_DATA = "examples/questions.jsonl"
_FIRST_MODEL = "meta-llama/Llama-2-7b-hf"
_FIRST_GPU = "RTX 4090"
_PRECISIONS = ("mixed", "pure bf16")
_TARGETS: dict[str, str | list[str]] = {
    "all linear layers": "all-linear",
    "q_proj and v_proj": ["q_proj", "v_proj"],
}

WIDGETS = {
    "method": "method",
    "seq_len": "seq_len",
    "micro_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "gradient_accumulation_steps",
    "adapter.r": "lora_r",
    "adapter.target_modules": "target_modules",
    "gradient_checkpointing": "gradient_checkpointing",
    "optimizer": "optimizer",
    "loss": "loss",
}
"""The key of the widget that sets each key of a plan."""


@dataclass(frozen=True, slots=True)
class PlanForm:
    """What the form says, for whichever method."""

    method: str
    precision: str
    shared: dict[str, Any]

    def plan(self, method: str) -> FineTunePlan:
        """Return the plan for a method.

        What is stored in fp32 and what in bf16 follows :func:`estimator.compare.stored_dtypes`.

        Raises:
            InputError: The form describes no possible plan.
        """
        autocast_dtype = "bf16" if self.precision == "mixed" else "none"
        weights_dtype, adapter_dtype = stored_dtypes(method, autocast_dtype)
        rank = self.shared["adapter"]["r"]
        dtypes = {
            "weights_dtype": weights_dtype,
            "autocast_dtype": autocast_dtype,
            "adapter": self.shared["adapter"] | {"alpha": 2 * rank, "dtype": adapter_dtype},
        }
        return parse_plan(self.shared | dtypes | {"method": method}, name="plan")


def widget_value(key: str, value: Any) -> Any:
    """Return what a widget must hold for a plan's key to have a value."""
    if key == "adapter.target_modules":
        return next(label for label, targets in _TARGETS.items() if targets == value)
    return value


def ask_plan() -> PlanForm:
    """Show the form and return what it says, not yet checked."""
    models = [*(card.id for card in bundled_models()), TINY_MODEL]
    model = st.selectbox(
        "Model",
        models,
        index=models.index(_FIRST_MODEL),
        accept_new_options=True,
        placeholder="Choose, or type a Hub id or a local path",
        help="A bundled model, any `owner/name` on the Hugging Face Hub, or the path of a folder "
        "or config.json on this machine. Of the Hub only the configuration is read.",
        key="model",
        bind="query-params",
    )
    st.caption(_about(model))
    method = st.segmented_control(
        "Method",
        METHODS,
        default="qlora",
        required=True,
        format_func=method_name,
        help="The method of the plan that you carry on. All three are compared in any case.",
        key="method",
        bind="query-params",
    )
    precision = st.selectbox(
        "Precision",
        _PRECISIONS,
        help="Mixed: what is trained is stored in fp32, what is frozen in bf16, all is computed in "
        "bf16; a full fine-tune with AdamW then takes 16 bytes a parameter. "
        "Pure bf16: stored and computed in bf16.",
        key="precision",
        bind="query-params",
    )
    left, right = st.columns(2)
    seq_len = left.number_input(
        "Sequence length",
        1,
        value=512,
        step=256,
        help="Tokens in one training example.",
        key="seq_len",
        bind="query-params",
    )
    micro_batch_size = right.number_input(
        "Micro batch",
        1,
        value=1,
        help="Examples in one forward pass on one GPU.",
        key="micro_batch_size",
        bind="query-params",
    )
    gpu = st.selectbox(
        "GPU",
        names := [gpu.name for gpu in bundled_gpus()],
        index=names.index(_FIRST_GPU),
        key="gpu",
        bind="query-params",
    )
    with st.expander("More settings"):
        gradient_accumulation_steps = st.number_input(
            "Gradient accumulation",
            1,
            value=16,
            help="Micro-batches that are added up before the optimizer steps.",
            key="gradient_accumulation_steps",
            bind="query-params",
        )
        lora_r = st.number_input(
            "LoRA rank r",
            1,
            value=16,
            help="The adapter's size grows with it. Only LoRA and QLoRA have an adapter.",
            key="lora_r",
            bind="query-params",
        )
        target_modules = st.selectbox(
            "LoRA on",
            list(_TARGETS),
            help="Which linear layers get an adapter.",
            key="target_modules",
            bind="query-params",
        )
        gradient_checkpointing = st.toggle(
            "Gradient checkpointing",
            value=True,
            help="Recompute activations in the backward pass: less memory, about a third slower.",
            key="gradient_checkpointing",
            bind="query-params",
        )
        optimizer = st.selectbox(
            "Optimizer",
            names := get_args(Optimizer),
            index=names.index("adamw_torch_fused"),
            key="optimizer",
            bind="query-params",
        )
        loss = st.selectbox(
            "Loss",
            get_args(FineTunePlan.model_fields["loss"].annotation),
            help="Chunked and Liger do not hold the logits of all tokens at once.",
            key="loss",
            bind="query-params",
        )
    is_tiny = model == TINY_MODEL
    shared = {
        "model": str(_PROJECT / TINY_MODEL) if is_tiny else model or "",
        "adapter": {"r": lora_r, "target_modules": _TARGETS[target_modules]},
        "optimizer": optimizer,
        "loss": loss,
        "micro_batch_size": micro_batch_size,
        "gradient_accumulation_steps": gradient_accumulation_steps,
        "seq_len": seq_len,
        "gradient_checkpointing": gradient_checkpointing,
        "gpu": gpu,
        "data": {"path": str(_PROJECT / _TINY_DATA)} if is_tiny else {},
    }
    return PlanForm(method, precision, shared)


def _about(model: str | None) -> str:
    if model == TINY_MODEL:
        return "Llama-shaped and small: its probe runs on any CPU."
    card = find_bundled_model(model or "")
    return f"{card.family}, {count(card.parameters)} parameters, {card.license}" if card else ""

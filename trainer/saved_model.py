"""Loading what a fine-tune saved, for inference: an adapter on its base, or a whole model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from estimator.documents import read_document
from estimator.hub import download_model
from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.pickles import has_safetensors
from trainer.saved import Quantization, read_plan
from trainer.skeleton import DTYPES, quantization_config, transformers_config
from trainer.untyped import peft, transformers
from trainer.weights import keep_4_bit_layout


@dataclass(frozen=True, slots=True)
class SavedAdapter:
    """An adapter's folder, read but not loaded.

    Attributes:
        plan: What it was trained by, None where the folder has no plan.json.
        kind: peft's name of its kind: LORA, IA3, PROMPT_TUNING, PREFIX_TUNING ...
        base: The name of the model that it was trained on.
        is_dora: Whether it learned the weights' magnitudes too.
    """

    folder: Path
    plan: FineTunePlan | None
    kind: str
    base: str
    is_dora: bool

    @property
    def dtype(self) -> Any:
        """What the base was trained in: the plan's, or where none is there its own."""
        return DTYPES[self.plan.weights_dtype] if self.plan else "auto"

    @property
    def trained_on(self) -> str:
        """How the base was quantised while the adapter was trained."""
        return self.plan.quantization if self.plan else "none"


def load_saved(
    folder: Path, *, quantization: Quantization | None = None, device: torch.device
) -> tuple[Any, Any]:
    """Return a saved model and its tokenizer, in evaluation mode, ready to generate.

    Only safetensors are read, and no code that the model brings along is run.

    Args:
        folder: A run's ``model``, or any adapter's or model's own.
        quantization: How the base's, or the whole model's, linear layers are stored; None: as
            they were while it was trained.
        device: Where to.

    Raises:
        InputError: The folder holds no model, or pickles alone; or the base cannot be found.
    """
    adapter = read_adapter(folder)
    if adapter is None:
        model = _load(folder, str(folder), "auto", _quantization(quantization, None), device)
        source = folder
    else:
        if adapter.is_dora and (quantization or adapter.trained_on) == "int8":
            what = "peft cannot run DoRA on int8 weights"
            raise InputError(Problem("quantization", what, "none, nf4", "use nf4"))
        source = base_folder(adapter)
        kept = _quantization(quantization, adapter.plan)
        base = _load(source, adapter.base, adapter.dtype, kept, device)
        model = with_adapter(base, adapter, device)
    model.eval()
    return model, load_tokenizer(folder, source)


def read_adapter(folder: Path) -> SavedAdapter | None:
    """Return the adapter in a folder, None where a whole model lies there.

    Raises:
        InputError: There is neither, its weights are missing or pickled, or its configuration is
            damaged.
    """
    file = folder / "adapter_config.json"
    is_adapter = file.exists()
    if not has_safetensors(folder):
        what = "holds no weights (*.safetensors)"
        raise InputError(Problem(str(folder), what, fix="name a finished fine-tune's model folder"))
    if not is_adapter:
        return None
    config = read_document(file)
    plan = read_plan(folder)
    names = [plan.model if plan else None, config.get("base_model_name_or_path")]
    known = [name for name in names if isinstance(name, str) and name]
    if not known or not isinstance(config.get("peft_type"), str):
        what = "does not say what kind of adapter it is, and of which model"
        raise InputError(Problem(str(file), what, "peft_type, base_model_name_or_path"))
    # A path may have been right where the run was started, and another where it was saved.
    base = next((name for name in known if Path(name).exists()), known[0])
    return SavedAdapter(folder, plan, config["peft_type"], base, bool(config.get("use_dora")))


def base_folder(adapter: SavedAdapter) -> Path:
    """Return the folder of the weights that an adapter was trained on.

    Raises:
        InputError: The model cannot be found, or has no safetensors.
    """
    facts = resolve_model(adapter.base)
    if facts.folder is None:
        return download_model(facts.name)
    if not has_safetensors(facts.folder):
        what = "the adapter's base model has no weights there (*.safetensors)"
        fix = "put them there, or name the base in the adapter's plan.json"
        raise InputError(Problem(f"model: {adapter.base}", what, fix=fix))
    return facts.folder


def load_base(adapter: SavedAdapter, folder: Path, device: torch.device) -> Any:
    """Return an adapter's base model unquantised, in the type that it was trained in."""
    return _load(folder, adapter.base, adapter.dtype, None, device)


def _load(folder: Path, name: str, dtype: Any, quantization: Any, device: torch.device) -> Any:
    config = transformers_config(resolve_model(str(folder)).config, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=dtype,
        quantization_config=quantization,
        device_map={"": device},
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
    )
    keep_4_bit_layout(model)
    return model


def _quantization(wanted: Quantization | None, plan: FineTunePlan | None) -> Any:
    """What ``from_pretrained`` is told, for a type asked for or the plan's own."""
    if wanted is None:
        return quantization_config(plan) if plan else None
    if wanted == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    if wanted == "nf4":
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=DTYPES[plan.weights_dtype] if plan else torch.bfloat16,
        )
    return None


def with_adapter(base: Any, adapter: SavedAdapter, device: torch.device) -> Any:
    """Return the base with the saved adapter on it, the adapter in 32 bits.

    Raises:
        InputError: The adapter does not suit the base.
    """
    try:
        return peft.PeftModel.from_pretrained(
            base,
            adapter.folder,
            is_trainable=False,
            torch_device=str(device),
        )
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        what = f"does not suit {adapter.base} ({' '.join(str(error).split())[:200]})"
        fix = "name the model that it was trained on in its adapter_config.json"
        raise InputError(Problem(str(adapter.folder), what, fix=fix)) from error


def load_tokenizer(folder: Path, base: Path) -> Any:
    """Return the tokenizer saved beside an adapter or model, or its base's.

    Raises:
        InputError: Neither folder has one.
    """
    for place in (folder, base):
        if (place / "tokenizer_config.json").exists():
            return transformers.AutoTokenizer.from_pretrained(
                place, local_files_only=True, trust_remote_code=False
            )
    what = "there is no tokenizer, here or beside its base model"
    raise InputError(Problem(str(folder), what, fix="save the tokenizer into the folder"))

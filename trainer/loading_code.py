"""Python that loads a saved fine-tune, as its card shows it: text alone, nothing is run here."""

from __future__ import annotations

import json
from typing import Literal

from estimator.plan import FineTunePlan

Saved = Literal["adapter", "model"]

_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def loading_code(
    plan: FineTunePlan, base: str, saved: Saved, *, trust_remote_code: bool = False
) -> str:
    """Return Python that loads the model in the precision it was trained in.

    Args:
        plan: What was trained.
        base: The base model, as a user of the saved one can name it.
        saved: Whether an adapter or a whole model was saved.
        trust_remote_code: Whether the base model is built by code of its own.
    """
    options = {"dtype": _quoted(_DTYPES[plan.weights_dtype])}
    return _code(base, saved, options, trust_remote_code, extra_import="")


def small_loading_code(
    plan: FineTunePlan, base: str, saved: Saved, *, trust_remote_code: bool = False
) -> str:
    """Return Python that loads it quantised: as it was trained, or else in 4 bits (nf4)."""
    if plan.quantization == "int8":
        quantization = "BitsAndBytesConfig(load_in_8bit=True)"
    else:
        kind = plan.quantization if plan.is_quantized else "nf4"
        quantization = (
            "BitsAndBytesConfig(\n"
            "    load_in_4bit=True,\n"
            f"    bnb_4bit_quant_type={_quoted(kind)},\n"
            f"    bnb_4bit_use_double_quant={plan.double_quant},\n"
            f"    bnb_4bit_compute_dtype={_quoted(_DTYPES[plan.weights_dtype])},\n"
            ")"
        )
    options = {
        "dtype": _quoted(_DTYPES[plan.weights_dtype]),
        "quantization_config": "quantization",
    }
    before = (f"quantization = {quantization}",)
    return _code(base, saved, options, trust_remote_code, ", BitsAndBytesConfig", before)


def _code(
    base: str,
    saved: Saved,
    options: dict[str, str],
    trust_remote_code: bool,
    extra_import: str,
    before: tuple[str, ...] = (),
) -> str:
    if trust_remote_code:
        options = options | {"trust_remote_code": "True"}
    told = "".join(f", {name}={value}" for name, value in options.items())
    imports = [
        *(["from peft import PeftModel"] if saved == "adapter" else []),
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{extra_import}",
    ]
    place = 'folder = "."  # this folder, or its id on the Hub'
    if saved == "adapter":
        known = (
            f"base = {_quoted(base)}  # the base model: a Hub id, or the folder where you have it"
        )
        places = [place, known]
        load = [
            f"model = AutoModelForCausalLM.from_pretrained(base{told})",
            "model = PeftModel.from_pretrained(model, folder)",
        ]
    else:
        places = [place]
        load = [f"model = AutoModelForCausalLM.from_pretrained(folder{told})"]
    # A tokenizer's own code is not published beside an adapter: it stays with the base model.
    source = "base" if trust_remote_code and saved == "adapter" else "folder"
    trusting = ", trust_remote_code=True" if trust_remote_code else ""
    load += [f"tokenizer = AutoTokenizer.from_pretrained({source}{trusting})"]
    return "\n".join([*imports, "", *places, *before, *load]) + "\n"


def _quoted(text: str) -> str:
    """A JSON string is a Python string as well, in the quotes that people write."""
    return json.dumps(text, ensure_ascii=False)

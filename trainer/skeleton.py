"""The model as transformers and bitsandbytes lay it out, with no memory behind it (device meta)."""

from __future__ import annotations

from typing import Any

import torch
from transformers.initialization import no_init_weights
from transformers.integrations.bitsandbytes import replace_with_bnb_linear
from transformers.quantizers.base import get_keys_to_not_convert

from estimator.hub import download_code
from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from estimator.problems import InputError, Problem
from trainer.remote_code import brings_code, needs_flag
from trainer.untyped import bnb, transformers

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}

_LEARNED_POSITIONS = ("gpt2", "opt")  # past the last one there is nothing to look up
_STATE_SPACES = ("nemotron_h", "falcon_h1", "mamba", "mamba2", "falcon_mamba")  # peft's list
_BLOCKSIZE = 64  # weights that share one 4-bit scale (bitsandbytes' default)
_NESTED_BLOCKSIZE = 256  # scales that share one second-level scale


def transformers_config(
    config: dict[str, Any], name: str, *, trust_remote_code: bool = False
) -> Any:
    """Return transformers' own configuration object for a config.json's content.

    Whether the model's own Python code may run is decided here alone: what is returned has an
    ``auto_map``, which names that code, only where it is trusted.

    Args:
        config: The content of config.json.
        name: The model's name in the plan.
        trust_remote_code: Run the model's own code, where it has some, as transformers does.

    Raises:
        InputError: transformers does not know the architecture, or refuses the values.
    """
    if trust_remote_code and brings_code(config):
        return _config_by_remote_code(name)
    model_type = config["model_type"]
    if model_type not in transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES:
        if brings_code(config):
            raise needs_flag(name, model_type)
        what = f"transformers knows no architecture {model_type!r}"
        fix = "correct model_type in config.json, or update transformers"
        raise InputError(Problem(name, what, fix=fix))
    values = {key: one for key, one in config.items() if key not in ("model_type", "auto_map")}
    try:
        return transformers.AutoConfig.for_model(model_type, **values)
    except (TypeError, ValueError, KeyError) as error:
        what = f"transformers refuses this {model_type} configuration ({error})"
        raise InputError(Problem(name, what, fix="correct config.json")) from error


def _config_by_remote_code(name: str) -> Any:
    try:
        facts = resolve_model(name)
        folder = facts.folder or download_code(facts.name)
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
    except InputError:
        raise
    except (ValueError, ImportError, OSError) as error:
        what = f"its own code gives no configuration ({' '.join(str(error).split())[:200]})"
        raise InputError(Problem(name, what, fix="ask the model's authors")) from error


def trusts_remote_code(config: Any) -> bool:
    """Return whether a configuration of :func:`transformers_config` may run the model's code."""
    return bool(getattr(config, "auto_map", None))


def quantization_config(plan: FineTunePlan) -> Any:
    """Return what ``from_pretrained`` is told about quantisation, None for no quantisation."""
    if not plan.is_quantized:
        return None
    if plan.quantization == "int8":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=plan.quantization,
        bnb_4bit_use_double_quant=plan.double_quant,
        bnb_4bit_compute_dtype=DTYPES[plan.weights_dtype],
    )


def attention_implementation(plan: FineTunePlan, config: Any) -> str:
    """Return transformers' name for the attention that the model takes.

    FlashAttention 2 runs through PyTorch's own build of the same kernels, so that neither the dry
    run nor the probe needs the flash-attn package. A model for which transformers has only eager
    attention takes that, as it does when nobody asks for another.
    """
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    model_class = mapping.get(type(config), None)
    has_sdpa = getattr(model_class, "_supports_sdpa", True)
    return "sdpa" if has_sdpa and plan.attention != "eager" else "eager"


def build_skeleton(plan: FineTunePlan, config: Any, name: str) -> Any:
    """Return the model on the meta device, its linear layers replaced where the plan quantises.

    Args:
        plan: What is trained, and how the frozen weights are stored.
        config: transformers' configuration object.
        name: The model's name, for problems.

    Raises:
        InputError: transformers has no causal language model for the configuration.
    """
    if getattr(config, "quantization_config", None):
        what = "its checkpoint is already quantised, and would be read as if it were not"
        fix = "name the unquantised model, and set method: qlora"
        raise InputError(Problem(name, what, fix=fix))
    longest = config.max_position_embeddings if config.model_type in _LEARNED_POSITIONS else None
    if longest is not None and plan.seq_len > longest:
        what = f"{plan.seq_len} is more than the {longest} positions that {name} has learned"
        raise InputError(Problem("seq_len", what, f"1 to {longest}", f"set seq_len: {longest}"))
    try:
        with torch.device("meta"), no_init_weights():
            model = transformers.AutoModelForCausalLM.from_config(
                config,
                dtype=DTYPES[plan.weights_dtype],
                attn_implementation=attention_implementation(plan, config),
                trust_remote_code=trusts_remote_code(config),
            )
    except (ValueError, ImportError) as error:
        what = f"transformers cannot build it for training ({' '.join(str(error).split())[:200]})"
        fix = "use another attention, or a causal language model"
        raise InputError(Problem(name, what, fix=fix)) from error
    model.tie_weights()  # skipped initialisation also skips tying
    _refuse_layers_that_peft_breaks(model, plan)
    quantization = quantization_config(plan)
    if quantization is not None:
        skipped = [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or [])]
        replace_with_bnb_linear(model, skipped, quantization)
        bits = 8 if plan.quantization == "int8" else 4
        setattr(model, f"is_loaded_in_{bits}bit", True)  # what peft asks
    return model


def _refuse_layers_that_peft_breaks(model: Any, plan: FineTunePlan) -> None:
    """``all-linear`` would also wrap layers that only look linear, and fail or be refused later."""
    if plan.method not in ("lora", "qlora") or plan.adapter.target_modules != "all-linear":
        return
    linear = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    odd = {
        name.rpartition(".")[2]
        for name, module in linear.items()
        if type(module).__name__.endswith("Router")  # returns two values: LoRA expects one
        or (model.config.model_type in _STATE_SPACES and name.endswith("out_proj"))
    }
    if odd:
        fitting = {name.rpartition(".")[2] for name in linear} - odd - {"lm_head"}
        what = f"all-linear would put LoRA on {', '.join(sorted(odd))}, on which peft cannot"
        fix = f"set adapter.target_modules: [{', '.join(sorted(fitting))}]"
        raise InputError(Problem("adapter.target_modules", what, fix=fix))


def quantized_linears(model: torch.nn.Module) -> list[Any]:
    """Return the modules whose weights bitsandbytes stores in 4 or 8 bits, in order."""
    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return [module for module in model.modules() if isinstance(module, kinds)]


def num_parameters(model: torch.nn.Module) -> int:
    """Count a model's parameters as it is published: packed weights by their real shape."""
    total = 0
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        total += state.shape.numel() if state is not None else parameter.numel()
    return total


def pack_on_meta(model: torch.nn.Module, plan: FineTunePlan) -> None:
    """Give every quantised linear on meta the packed shapes its real weight would have."""
    for module in quantized_linears(model):
        if isinstance(module, bnb.nn.Linear4bit):
            _pack_4_bit(module, plan)
        else:
            _pack_8_bit(module)


def _pack_4_bit(module: Any, plan: FineTunePlan) -> None:
    count = module.in_features * module.out_features
    state = _quant_state(module, count, plan)
    packed = torch.empty((count + 1) // 2, 1, dtype=torch.uint8, device="meta")
    module.weight = bnb.nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        compress_statistics=plan.double_quant,
        quant_type=plan.quantization,
        module=module,
        bnb_quantized=True,
    )
    module.quant_state = state


def _quant_state(module: Any, count: int, plan: FineTunePlan) -> Any:
    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    blocks = -(-count // _BLOCKSIZE)
    common = {
        "shape": torch.Size((module.out_features, module.in_features)),
        "code": empty(16),
        "blocksize": _BLOCKSIZE,
        "quant_type": plan.quantization,
        "dtype": DTYPES[plan.weights_dtype],
    }
    if not plan.double_quant:
        return bnb.functional.QuantState(absmax=empty(blocks), **common)
    second = bnb.functional.QuantState(
        absmax=empty(-(-blocks // _NESTED_BLOCKSIZE)),
        code=empty(256),
        blocksize=_NESTED_BLOCKSIZE,
        dtype=torch.float32,
    )
    absmax = empty(blocks, dtype=torch.uint8)
    return bnb.functional.QuantState(absmax=absmax, offset=empty(), state2=second, **common)


def _pack_8_bit(module: Any) -> None:
    shape = (module.out_features, module.in_features)
    weight = bnb.nn.Int8Params(
        torch.empty(shape, dtype=torch.int8, device="meta"),
        requires_grad=False,
        has_fp16_weights=False,
    )
    weight.CB = weight.data
    weight.SCB = torch.empty(module.out_features, device="meta")
    module.weight = weight


def quantization_tensors(parameter: Any) -> list[torch.Tensor]:
    """Return the tensors beside a quantised weight: scales, their scales, code books."""
    state = getattr(parameter, "quant_state", None)
    if state is None:
        scale = getattr(parameter, "SCB", None)
        return [] if scale is None else [scale]
    tensors = [state.absmax, state.code]
    if state.nested:
        tensors += [state.offset, state.state2.absmax, state.state2.code]
    return [tensor for tensor in tensors if tensor is not None]

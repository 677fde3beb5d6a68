"""FineTunePlan: everything that decides what one training step needs, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from estimator.contradictions import contradictions
from estimator.documents import apply_overrides, is_there, read_document, to_yaml
from estimator.gpus import Gpu, find_gpu
from estimator.problems import InputError, Problem
from estimator.validation import refuse_other_kind, validate

Method = Literal[
    "full", "last_layers", "lora", "qlora", "prompt_tuning", "prefix_tuning", "ia3", "bitfit"
]
FloatType = Literal["bf16", "fp16", "fp32"]
DataFormat = Literal["auto", "chat", "prompt_completion", "instruction", "text"]
Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_foreach",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
    "adafactor",
    "sgd",
    "lion_8bit",
    "lion_32bit",
    "paged_lion_8bit",
    "paged_lion_32bit",
]

TRAINS_WEIGHTS: tuple[str, ...] = ("full", "last_layers", "bitfit")
"""The methods that train the model's own weights, or part of them; the others add an adapter."""

BYTES_PER_VALUE: dict[str, int] = {"fp32": 4, "bf16": 2, "fp16": 2}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _check_target_modules(value: Any) -> Any:
    names = value if isinstance(value, list | tuple) else None
    if value == "all-linear" or (names and all(isinstance(name, str) and name for name in names)):
        return value if names is None else tuple(names)
    raise InputError(
        Problem(
            "adapter.target_modules",
            f"{value!r} is not allowed",
            "all-linear, or a list of module names such as [q_proj, v_proj]",
            "name the modules that get an adapter",
        )
    )


def _check_modules_to_save(value: Any) -> Any:
    if isinstance(value, list | tuple) and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise InputError(
        Problem(
            "adapter.modules_to_save",
            f"{value!r} is not allowed",
            "a list of module names such as [embed_tokens, lm_head]",
            "name the modules that are trained whole, or []",
        )
    )


def _check_gpu(value: Any) -> Any:
    if isinstance(value, Gpu):
        return value.name if value.bundled else value
    if isinstance(value, str):
        return find_gpu(value, where="gpu").name
    if isinstance(value, dict):
        return validate(Gpu, value, "gpu")
    allowed = "the name of a bundled GPU, or {name, memory_gib, ...}"
    raise InputError(Problem("gpu", f"{value!r} is not allowed", allowed, "name a GPU"))


class Adapter(_Part):
    """The small trained part that a parameter-efficient method adds to the frozen model."""

    r: int = Field(default=16, ge=1, le=8192, description="rank of LoRA's two matrices")
    alpha: float = Field(default=32, gt=0, description="LoRA's scale is alpha / r")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout on the adapter's input")
    target_modules: Annotated[
        Literal["all-linear"] | tuple[str, ...], BeforeValidator(_check_target_modules)
    ] = Field(default="all-linear", description="which linear layers get an adapter")
    use_dora: bool = Field(default=False, description="learn the weights' magnitude separately")
    use_rslora: bool = Field(default=False, description="scale by alpha / sqrt(r)")
    dtype: FloatType = Field(default="fp32", description="what the adapter is stored in")
    modules_to_save: Annotated[tuple[str, ...], BeforeValidator(_check_modules_to_save)] = Field(
        default=(), description="modules trained whole beside the adapter"
    )
    num_virtual_tokens: int = Field(
        default=20, ge=1, le=100_000, description="prompt_tuning and prefix_tuning only"
    )


class Parallel(_Part):
    """How the step is spread over several GPUs."""

    strategy: Literal["none", "ddp", "zero1", "zero2", "zero3", "fsdp"] = "none"
    data_parallel_size: int = Field(default=1, ge=1, le=65_536)
    offload: Literal["none", "cpu"] = "none"


class Data(_Part):
    """What is trained on, as far as it decides time and money."""

    path: str | None = None
    format: DataFormat = "auto"
    num_examples: int | None = Field(default=None, ge=1)
    tokens_per_example: float | None = Field(default=None, gt=0)


class Schedule(_Part):
    """How the steps of a whole fine-tune follow each other; only weight decay touches a step."""

    learning_rate: float | None = Field(
        default=None, gt=0, le=10, description="the highest one; null: what suits the method"
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.03, ge=0, lt=1, description="share of all steps")
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    validation_fraction: float = Field(
        default=0.1, ge=0, le=0.9, description="of the examples, held out; 0: none"
    )
    evaluations_per_epoch: int = Field(default=2, ge=1, le=1000)
    early_stopping_patience: int | None = Field(
        default=3, ge=1, le=1000, description="evaluations without a lower loss; null: no limit"
    )


class FineTunePlan(_Part):
    """One training step, fully described: the only input of every reading.

    Every key but ``model`` and ``method`` has a default. A plan is immutable; use
    :meth:`changed` for a variant.
    """

    model: str = Field(min_length=1, description="Hub id, bundled id, folder or config.json")
    method: Method
    adapter: Adapter = Adapter()
    num_trained_layers: int = Field(default=2, ge=1, description="last_layers only")
    quantization: Literal["none", "nf4", "fp4", "int8"] = Field(
        default_factory=lambda data: "nf4" if data.get("method") == "qlora" else "none",
        description="how the frozen weights are stored; qlora implies nf4",
    )
    double_quant: bool = Field(default=True, description="quantise the 4-bit scales again")
    kbit_preparation: bool = Field(default=True, description="peft.prepare_model_for_kbit_training")
    weights_dtype: FloatType = "bf16"
    autocast_dtype: Literal["none", "bf16", "fp16"] = "bf16"
    optimizer: Optimizer = "adamw_torch_fused"
    max_grad_norm: float | None = Field(default=1.0, ge=0, description="0 or null: no clipping")
    micro_batch_size: int = Field(default=1, ge=1, le=1_000_000)
    gradient_accumulation_steps: int = Field(default=16, ge=1, le=1_000_000)
    seq_len: int = Field(default=2048, ge=1, le=100_000_000)
    padded: bool = Field(default=False, description="true: an attention mask is passed")
    gradient_checkpointing: bool = Field(
        default_factory=lambda data: data.get("method") != "prefix_tuning",
        description="activations are computed again in backward; prefix_tuning cannot",
    )
    checkpointing_reentrant: bool = Field(
        default=False, description="true: torch's older, reentrant variant of checkpointing"
    )
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    attention_backend: Literal["auto", "flash", "efficient", "math"] = "auto"
    loss: Literal["default", "chunked", "liger"] = "default"
    keep_outputs: bool = Field(
        default=False, description="true: logits stay alive through backward"
    )
    device_map_load: bool = Field(
        default=True, description="weights are loaded straight onto the GPU"
    )
    expandable_segments: bool = Field(
        default=False, description="PyTorch's allocator grows its segments, and wastes less"
    )
    parallel: Parallel = Parallel()
    gpu: Annotated[str | Gpu, BeforeValidator(_check_gpu)] = "RTX 4090"
    data: Data = Data()
    epochs: float = Field(default=3, gt=0, le=10_000)
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _check_contradictions(self) -> FineTunePlan:
        problems = list(contradictions(self))
        if problems:
            raise InputError(problems)
        return self

    @property
    def is_quantized(self) -> bool:
        """Whether the frozen weights are stored in 4 or 8 bits."""
        return self.quantization != "none"

    @property
    def uses_adapter(self) -> bool:
        """Whether a peft adapter is trained in place of the model's own weights."""
        return self.method not in TRAINS_WEIGHTS

    @property
    def prepares_kbit(self) -> bool:
        """Whether peft upcasts norms, embeddings and head to fp32 before the adapter is added."""
        return self.is_quantized and self.kbit_preparation

    @property
    def tokens_per_micro_batch(self) -> int:
        """Tokens in one forward pass on one GPU."""
        return self.micro_batch_size * self.seq_len

    @property
    def micro_steps_taken(self) -> int:
        """Micro-batches that a step of a dry run or a probe takes: two stand for all the rest.

        From the second on gradients are alive throughout, and each needs what the last one did.
        """
        return min(self.gradient_accumulation_steps, 2)

    @property
    def global_batch_size(self) -> int:
        """Examples that contribute to one optimizer step, over all GPUs."""
        per_gpu = self.micro_batch_size * self.gradient_accumulation_steps
        return per_gpu * self.parallel.data_parallel_size

    @property
    def gpu_spec(self) -> Gpu:
        """The plan's GPU, looked up in the catalogue where it is only named."""
        return self.gpu if isinstance(self.gpu, Gpu) else find_gpu(self.gpu)

    def changed(self, **changes: Any) -> FineTunePlan:
        """Return this plan with some keys changed, checked again.

        A change of ``method`` alone lets ``quantization`` follow it (qlora implies nf4).

        Raises:
            InputError: The changed plan is not possible.
        """
        document = self.to_document()
        if "method" in changes and "quantization" not in changes:
            del document["quantization"]
        return parse_plan(document | changes, name="plan")

    def to_document(self) -> dict[str, Any]:
        """Return the effective plan, defaults filled in, as plain JSON values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return the effective plan as YAML that :func:`load_plan` reads back."""
        return to_yaml(self.to_document())


def parse_plan(document: dict[str, Any], *, name: str = "plan") -> FineTunePlan:
    """Return the plan that a parsed document describes.

    Args:
        document: Keys and values of the plan file.
        name: What to call it in problems, usually its path.

    Raises:
        InputError: It describes no possible plan; every problem is listed.
    """
    return validate(FineTunePlan, document, name)


def load_plan(path: Path, overrides: Iterable[str] = ()) -> FineTunePlan:
    """Return the plan in a YAML or JSON file, with ``key=value`` overrides laid over it.

    A relative ``model`` or ``data.path`` that exists beside the plan file is taken from there.

    Raises:
        InputError: The file, an override or the plan is wrong; every problem is listed.
    """
    document = read_document(path)
    refuse_other_kind(document, "a plan", FineTunePlan.model_fields, str(path))
    document = resolve_paths(document, path.parent)
    return parse_plan(apply_overrides(document, overrides), name=str(path))


def resolve_paths(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a plan document whose relative paths that exist in ``folder`` lead there."""
    if isinstance(document.get("model"), str):
        document["model"] = _beside(document["model"], folder)
    data = document.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = _beside(data["path"], folder)
    return document


def _beside(name: str, folder: Path) -> str:
    beside = folder / name
    return str(beside) if name and not is_there(Path(name)) and is_there(beside) else name

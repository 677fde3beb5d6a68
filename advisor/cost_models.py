"""The inputs of a cost that its models and GPUs give: sizes, speeds, and what fits where."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from advisor.cost_prices import add_gpu_price
from advisor.input_book import InputBook, exact
from advisor.scenario import Scenario
from estimator.architecture import Architecture, NotModelled
from estimator.cheapest import cheapest_gpus
from estimator.cost_ledger import Basis
from estimator.flops import NotCounted, read_shape
from estimator.gpus import Gpu, bundled_gpus, find_gpu
from estimator.memory import NoFormula, read_formula
from estimator.models import resolve_model
from estimator.plan import FineTunePlan, parse_plan
from estimator.throughput import read_throughput

PRETRAINING_GPU = "H100 SXM 80GB"


@dataclass(frozen=True, slots=True)
class MeasuredSpeed:
    """What a run measured: how fast it trained which model, how, on which GPU."""

    gpu: str
    tokens_per_second: float
    model: str
    method: str
    source: str


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A model, as far as costs depend on its size."""

    name: str
    parameters: int
    active_parameters: int
    kv_bytes_per_token: int


def no_plan(scenario: Scenario) -> str:
    """Return why nothing is known of training and serving, and what to do about it."""
    if scenario.answers.get("weights") == "closed_only":
        return (
            "closed weights (answers: weights closed_only) can be trained and served by their "
            "provider alone: workload.api_model names the model that prompts are priced for; "
            "for its provider's fine-tuning set workload.hosted_provider, and a `plan` with the "
            "data and any open model"
        )
    return (
        "the scenario has no plan: name an open model and a method under `plan`; a closed model "
        "is named under workload.api_model, and cannot be trained or served here"
    )


def model_size(plan: FineTunePlan) -> ModelSize | str:
    """Return the sizes of a plan's model, or why they are not known.

    Raises:
        InputError: The model cannot be found.
    """
    model = resolve_model(plan.model)
    try:
        shape = read_shape(plan, model)
    except NotCounted as no:
        return no.reason
    active = round(shape.layer_weights * shape.num_layers + shape.vocab_size * shape.hidden_size)
    total = model.num_parameters
    if total is None:
        try:
            total = Architecture.from_config(model.config).num_parameters
        except NotModelled:
            total = active
    kv_bytes = 2 * shape.num_layers * shape.num_key_heads * shape.head_dim * 2  # 16 bits each
    return ModelSize(model.name, total, active, kv_bytes)


def add_models(
    book: InputBook, scenario: Scenario, today: date, measured: MeasuredSpeed | None
) -> None:
    """Write down what training and serving depend on.

    Raises:
        InputError: A model or a GPU that the scenario names does not exist.
    """
    _add_training(book, scenario, today, measured)
    _add_serving(book, scenario, today)
    _add_pretraining(book, scenario, today)


def _add_training(
    book: InputBook, scenario: Scenario, today: date, measured: MeasuredSpeed | None
) -> None:
    plan = scenario.plan
    speed = "training_tokens_per_second"
    if plan is None:
        names = ("training_gpu_hour", "training_examples", "tokens_per_example", "epochs")
        book.miss(no_plan(scenario), speed, *names)
        return
    _add_training_tokens(book, scenario, plan)
    if measured is not None:
        label, unit = "training speed", "tokens per second"
        book.add(speed, label, unit, measured.tokens_per_second, "measured", measured.source)
        if (measured.model, measured.method) != (plan.model, plan.method):
            book.notes.append(
                f"The speed is that of {measured.method} of {measured.model} ({measured.source}), "
                f"and the plan is {plan.method} of {plan.model}."
            )
        add_gpu_price(book, "training_gpu_hour", "the GPU that fine-tunes", measured.gpu, today)
        return
    fitting = _on_a_gpu_that_fits(book, plan)
    if fitting is None:
        reason = f"{plan.method} of {plan.model} fits no single GPU of the catalogue"
        book.miss(reason, speed, "training_gpu_hour")
        return
    found = read_throughput(fitting)
    if found.tokens_per_second is None:
        book.miss(found.unknown, speed)
    else:
        span = found.tokens_per_second
        spread = (span.low, span.likely, span.high)
        source = f"{fitting.method} on {found.gpu}, by the formula of `estimate`"
        book.add(speed, "training speed", "tokens per second", spread, "formula", source)
    name = fitting.gpu_spec.name
    add_gpu_price(book, "training_gpu_hour", "the GPU that fine-tunes", name, today)


def _on_a_gpu_that_fits(book: InputBook, plan: FineTunePlan) -> FineTunePlan | None:
    """Return the plan, on the cheapest GPU that it fits where it does not fit its own."""
    try:
        reading = read_formula(plan)
    except NoFormula:
        return plan
    if reading.fit(plan.gpu_spec).fits != "no":
        return plan
    cuda = (gpu for gpu in bundled_gpus() if gpu.compute_capability is not None)
    fits = [reading.fit(gpu) for gpu in cuda]
    offer = next((one for one in cheapest_gpus(fits) if one.usd_per_hour is not None), None)
    if offer is None:
        return None
    book.notes.append(
        f"{plan.method} of {plan.model} does not fit {plan.gpu_spec.name}: training is reckoned "
        f"on {offer.gpu}, the cheapest GPU that it fits."
    )
    return plan.changed(gpu=offer.gpu)


def _add_training_tokens(book: InputBook, scenario: Scenario, plan: FineTunePlan) -> None:
    label, unit = "examples trained on", "examples"
    name = "training_examples"
    if plan.data.num_examples is not None:
        source = "plan.data.num_examples"
        book.add(name, label, unit, plan.data.num_examples, "plan", source)
    elif not book.answer(name, label, unit, scenario.answers):
        reason = "how many examples there are is not said (plan.data.num_examples)"
        book.miss(reason, name)
    length, source = plan.data.tokens_per_example, "plan.data.tokens_per_example"
    if length is None:
        length, source = plan.seq_len, "plan.seq_len: every example as long as it may be"
    book.add("tokens_per_example", "tokens of an example", "tokens", length, "plan", source)
    book.add("epochs", "times each example is seen", "times", plan.epochs, "plan", "plan.epochs")


def _add_serving(book: InputBook, scenario: Scenario, today: date) -> None:
    workload, plan = scenario.workload, scenario.plan
    name = workload.serving_model if workload and workload.serving_model else None
    names = ("serving_parameters", "serving_active_parameters", "serving_kv_bytes")
    if name is None and plan is None:
        book.miss(no_plan(scenario), *names, "serving_gpu_hour", *gpu_names("serving"))
        return
    served = parse_plan({"model": name, "method": "lora"}) if name else plan
    size = model_size(served) if served else no_plan(scenario)
    source = "workload.serving_model" if name else "plan.model"
    add_size(book, "serving", size, "scenario" if name else "plan", source)
    if workload and workload.gpu:
        gpu = find_gpu(workload.gpu, where="workload.gpu")
    elif plan is not None:
        gpu = plan.gpu_spec
    else:
        book.miss("no GPU is named (workload.gpu)", "serving_gpu_hour", *gpu_names("serving"))
        return
    add_gpu(book, "serving", gpu)
    add_gpu_price(book, "serving_gpu_hour", "the GPU that serves", gpu.name, today)


def add_size(
    book: InputBook, prefix: str, size: ModelSize | str, basis: Basis, source: str
) -> None:
    """Write down the sizes of a model that is served."""
    names = (f"{prefix}_parameters", f"{prefix}_active_parameters", f"{prefix}_kv_bytes")
    if isinstance(size, str):
        book.miss(size, *names)
        return
    values = (size.parameters, size.active_parameters, size.kv_bytes_per_token)
    labels = (
        f"parameters of {size.name}",
        "those that multiply one token",
        "keys and values of one token, in 16 bits",
    )
    units = ("parameters", "parameters", "bytes")
    for name, value, label, unit in zip(names, values, labels, units, strict=True):
        book.add(name, label, unit, value, basis, source)


def gpu_names(prefix: str) -> tuple[str, str, str]:
    """Return the names of the inputs that describe a GPU."""
    return f"{prefix}_gpu_memory", f"{prefix}_gpu_bandwidth", f"{prefix}_gpu_flops"


def add_gpu(book: InputBook, prefix: str, gpu: Gpu) -> None:
    """Write down a GPU's memory, bandwidth and peak."""
    memory, bandwidth, flops = gpu_names(prefix)
    book.add(memory, f"memory of {gpu.name}", "bytes", gpu.memory_bytes, "quoted", gpu.source)
    peak = gpu.bf16_dense_tflops or gpu.fp16_dense_tflops
    for name, value, label in (
        (bandwidth, gpu.bandwidth_gb_per_second, "bandwidth"),
        (flops, peak, "16-bit rate"),
    ):
        if value is None:
            book.miss(f"the {label} of {gpu.name} is not known", name)
    if gpu.bandwidth_gb_per_second is not None:
        per_second = exact(gpu.bandwidth_gb_per_second) * 10**9
        label = f"bandwidth of {gpu.name}"
        book.add(bandwidth, label, "bytes per second", per_second, "quoted", gpu.source)
    if peak is not None:
        label = f"dense 16-bit peak of {gpu.name}"
        book.add(flops, label, "FLOPs per second", exact(peak) * 10**12, "quoted", gpu.source)


def _add_pretraining(book: InputBook, scenario: Scenario, today: date) -> None:
    gpu = find_gpu(PRETRAINING_GPU)
    add_gpu_price(book, "pretraining_gpu_hour", "the GPU that pre-trains", gpu.name, today)
    peak = Decimal(str(gpu.bf16_dense_tflops or 0)) * 10**12
    label = f"dense 16-bit peak of {gpu.name}"
    book.add("pretraining_flops", label, "FLOPs per second", peak, "quoted", gpu.source)
    _add_pretraining_tokens(book, scenario)
    workload, plan = scenario.workload, scenario.plan
    size = model_size(plan) if plan else no_plan(scenario)
    if isinstance(size, str):
        book.miss(size, "pretrained_parameters")
    else:
        label = f"parameters of {size.name}"
        parameters = size.active_parameters
        book.add("pretrained_parameters", label, "parameters", parameters, "plan", "plan.model")
    label, unit = "parameters of the new model", "parameters"
    if workload and workload.new_model_parameters:
        value = workload.new_model_parameters
        source = "workload.new_model_parameters"
        book.add("new_model_parameters", label, unit, value, "scenario", source)
    elif isinstance(size, str):
        book.miss(
            "how large it would be is not said (workload.new_model_parameters)",
            "new_model_parameters",
        )
    else:
        source = f"as large as {size.name}"
        book.add("new_model_parameters", label, unit, size.parameters, "plan", source)


def _add_pretraining_tokens(book: InputBook, scenario: Scenario) -> None:
    name, label, unit = "pretraining_tokens", "text for continued pre-training", "tokens"
    workload = scenario.workload
    if workload and workload.pretraining_tokens is not None:
        source = f"workload.{name}"
        book.add(name, label, unit, workload.pretraining_tokens, "scenario", source)
    elif not book.answer(name, label, unit, scenario.answers):
        book.miss(
            "how much unlabelled text there is is not said (workload.pretraining_tokens)", name
        )

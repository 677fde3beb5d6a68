"""Why what was measured differs from what was estimated, in words that a reader can check."""

from __future__ import annotations

from collections.abc import Iterator

from estimator.estimate import COMPONENTS, Component, MemoryEstimate
from estimator.records import Record
from reports.units import gib, percent
from reports.words import basis_name
from trainer.results import ProbeResult

AGREE = 0.001
"""Nearer than this there is nothing to explain: the tests hold dry runs to it on a CPU."""

MODELLED = {"torch": "2.13", "transformers": "5.23", "peft": "0.21", "bitsandbytes": "0.50"}
"""The versions whose kernels and classes the estimates describe; requirements.txt pins them."""

_MOST_COMPONENTS = 3
_WORTH_NAMING = 0.05
"""The part of all differences between components that one must have to be named."""

_CHECKS: dict[Component, str] = {
    "weights": "count the model's parameters, and see that weights_dtype is what was loaded",
    "quantization_state": "bitsandbytes stores scales by its own version: compare the versions",
    "adapters": "compare adapter.target_modules and adapter.dtype with the adapter that was made",
    "gradients": "gradients follow the trained parameters and their dtype: compare their counts",
    "optimizer_states": "8-bit optimizers keep small parameters in 32 bits, paged ones elsewhere",
    "activations": (
        "look at attention_backend (another kernel keeps other tensors), at gradient_checkpointing,"
        " and at padding, which brings a mask"
    ),
    "logits": "a loop that holds the model's outputs keeps them: compare with keep_outputs=true",
    "temporaries": "kernels of other versions, or of another device, take other buffers",
    "workspace": (
        "cuBLAS and other kernels hold workspaces that no tensor shows: CUBLAS_WORKSPACE_CONFIG"
        "=:16:8 makes cuBLAS's small"
    ),
}


class Difference(Record):
    """How one estimate differs from the measurement, and why.

    ``difference_bytes`` and those of the components are measured less estimated;
    ``components_bytes`` begins with the largest, and is empty where the measurement does not tell
    components apart.
    """

    basis: str
    difference_bytes: int
    components_bytes: dict[Component, int]
    reasons: tuple[str, ...]


def differences(result: ProbeResult) -> list[Difference]:
    """Return how the dry run and the formula of a probe differ from what it measured."""
    measured = result.measured
    if measured is None:
        return []
    estimates = [one for one in (result.dry_run, result.formula) if one]
    return [_difference(result, one, measured) for one in estimates]


def _difference(
    result: ProbeResult, estimate: MemoryEstimate, measured: MemoryEstimate
) -> Difference:
    by_component = _by_component(estimate, measured)
    difference = measured.peak_allocated_bytes - estimate.peak_allocated_bytes
    if abs(difference) <= AGREE * measured.peak_allocated_bytes:
        reasons = (
            f"The {basis_name(estimate)} agrees within {AGREE:.1%}".replace("%", " %") + ".",
        )
    else:
        reasons = tuple(_reasons(result, estimate, measured, by_component))
    return Difference(
        basis=basis_name(estimate),
        difference_bytes=difference,
        components_bytes=by_component,
        reasons=reasons,
    )


def _by_component(estimate: MemoryEstimate, measured: MemoryEstimate) -> dict[Component, int]:
    found: dict[Component, int] = {}
    for name in COMPONENTS:
        then, now = estimate.components_bytes.get(name), measured.components_bytes.get(name)
        if then is not None and now is not None and then != now:
            found[name] = now - then
    return dict(sorted(found.items(), key=lambda pair: -abs(pair[1])))


def _reasons(
    result: ProbeResult,
    estimate: MemoryEstimate,
    measured: MemoryEstimate,
    by_component: dict[Component, int],
) -> Iterator[str]:
    name = basis_name(estimate)
    off = percent(estimate.peak_allocated_bytes, measured.peak_allocated_bytes)
    difference = measured.peak_allocated_bytes - estimate.peak_allocated_bytes
    more = "more" if difference > 0 else "less"
    yield f"The {name} is off by {off}: {gib(abs(difference))} {more} was measured."
    yield from _component_reasons(by_component)
    if not by_component:
        yield (
            "The measurement does not tell components apart: the recorder saw another moment's "
            "peak than the allocator did."
        )
    if estimate.peak_phase != measured.peak_phase:
        yield f"The peak was in {measured.peak_phase}; the {name} has it in {estimate.peak_phase}."
    if estimate.parameters != measured.parameters:
        then, now = estimate.parameters, measured.parameters
        yield (
            f"The model that was built has {now.total:,} parameters, {now.trainable:,} trained; "
            f"the {name} counts {then.total:,} and {then.trainable:,}."
        )
    if estimate.basis == "formula" and measured.device == "cpu":
        yield "The formula describes CUDA's kernels; a CPU's take other temporaries."
    yield from _version_reasons(result)
    plan = result.plan
    if plan.keep_outputs:
        yield "keep_outputs is true: the logits of one step are alive into the next."
    if plan.padded:
        yield "padded is true: an attention mask is built, which decides the attention kernel."
    if measured.device == "cuda":
        yield (
            f"attention is {plan.attention}, its backend {plan.attention_backend}: what the "
            f"{name} takes for this GPU is among its assumptions."
        )


def _component_reasons(by_component: dict[Component, int]) -> Iterator[str]:
    total = sum(map(abs, by_component.values()))
    named = [pair for pair in by_component.items() if abs(pair[1]) >= _WORTH_NAMING * total]
    for component, size in named[:_MOST_COMPONENTS]:
        more = "more" if size > 0 else "less"
        words = component.replace("_", " ")
        yield f"{words}: {gib(abs(size))} {more} than estimated; {_CHECKS[component]}."
    net = sum(by_component.values())
    if total > 2 * abs(net) and by_component:
        yield (
            f"Of {gib(total)} that components differ by, {gib(total - abs(net))} cancel out: the "
            "same bytes under another name."
        )


def _version_reasons(result: ProbeResult) -> Iterator[str]:
    others = [
        f"{library} {version}"
        for library, version in result.software.items()
        if library in MODELLED and not f"{version}.".startswith(f"{MODELLED[library]}.")
    ]
    if others:
        modelled = ", ".join(f"{library} {version}" for library, version in MODELLED.items())
        yield f"Installed are {', '.join(others)}; the estimates describe {modelled}."


def length_note(result: ProbeResult) -> str:
    """Return how long the data's own examples are beside ``seq_len``, and what they peak at."""
    lengths, plan, measured = result.lengths, result.plan, result.measured
    if lengths is None or measured is None or lengths.longest >= plan.seq_len:
        return ""
    sentence = (
        f"Rows of the timed steps hold {lengths.shortest:,} to {lengths.longest:,} tokens "
        f"(median {lengths.median:,.0f}) of seq_len {plan.seq_len:,}"
    )
    if lengths.padded_share:
        sentence += f", {lengths.padded_share * 100:.0f} % of the positions are padding"
    if result.timed_peak_bytes:
        at_full = gib(measured.peak_allocated_bytes)
        sentence += f"; they peak at {gib(result.timed_peak_bytes)}, full batches at {at_full}"
    return f"{sentence}."

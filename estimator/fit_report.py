"""Everything that ``fit`` answers for one plan and one GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from estimator.changes import with_keys
from estimator.cheapest import GpuOffer, cheapest_gpus
from estimator.compare import under_method
from estimator.estimate import Basis, Fits, MemoryEstimate
from estimator.fit import WeighedChange, stack_changes, weigh_changes
from estimator.gpus import Gpu, bundled_gpus, find_gpu
from estimator.judge import judge_traced
from estimator.limits import NOT_READ, Limit, find_limit
from estimator.memory import NoFormula, read_formula
from estimator.models import resolve_model
from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError
from estimator.reader import Confirm, NotConfirmed, Reader, fits_in
from estimator.records import Record

METHODS: tuple[str, ...] = ("full", "last_layers", "lora", "qlora")

_CHANGE_DRY_RUNS = 6
_STACK_DRY_RUNS = 3
_METHOD_DRY_RUNS = 3
_OFFER_DRY_RUNS = 2
"""How many dry runs each part of the answer may take, at some seconds each."""

_WITH_EVERY_KERNEL = "A100 80GB SXM"
"""A GPU on which the formula holds wherever it holds at all."""


class MethodFit(Record):
    """The plan as people run it with another method, on the same GPU."""

    method: str
    basis: Basis
    peak_allocated_bytes: int
    fits: Fits
    headroom_bytes: int
    largest_micro_batch_size: int | None
    longest_seq_len: int | None


class FitReport(Record):
    """What fits a GPU, and what would make the plan fit.

    ``confirmed_by`` is what the plan's own verdict and limits were checked with, None where the
    formula alone was asked. ``trained_length`` is the length the model was made for, None where
    its configuration does not say. ``notes`` is what was assumed, ``not_read`` why some variant
    is left out, or a search ended where it did.
    """

    plan: FineTunePlan
    gpu: str
    gpu_memory_bytes: int
    basis: Basis
    confirmed_by: Literal["dry-run"] | None
    fits: Fits
    headroom_bytes: int
    peak_allocated_bytes: int
    micro_batch_limit: Limit
    seq_len_limit: Limit
    trained_length: int | None
    methods: tuple[MethodFit, ...]
    changes: tuple[WeighedChange, ...]
    stack: tuple[WeighedChange, ...]
    stack_fits: Fits | None
    stack_confirmed_by: Literal["dry-run"] | None
    cheapest_gpus: tuple[GpuOffer, ...]
    notes: tuple[str, ...]
    not_read: tuple[str, ...]
    num_dry_runs: int
    seconds: float

    def to_document(self) -> dict[str, Any]:
        """Return the report as plain JSON values, with the two limits as plain numbers too."""
        sizes = {
            "largest_micro_batch_size": self.micro_batch_limit.value,
            "longest_seq_len": self.seq_len_limit.value,
        }
        return self.model_dump(mode="json") | sizes


def read_fit(plan: FineTunePlan, *, confirm: Confirm | None = None) -> FitReport:
    """Return what fits the plan's GPU, and what would make the plan fit.

    Searches read the formula. With ``confirm`` the plan's verdict, its two limits, the end of the
    stack and the cheapest GPU are then checked by dry runs, and corrected where these disagree;
    single changes and other methods stay as the formula reads them. Where no formula holds, a
    handful of dry runs answers, and what they did not reach is left out.

    Args:
        plan: What is trained; its ``gpu`` is the one in question.
        confirm: Makes a dry run of a plan, and raises :class:`NotConfirmed` where it cannot.

    Raises:
        NoFormula: No formula holds, and there is no ``confirm``.
        NotConfirmed: No formula holds, and the dry run broke.
        InputError: The model cannot be found, or the plan is not possible on this GPU.
    """
    started = time.perf_counter()
    gpu = plan.gpu_spec
    reader = Reader(confirm)
    formula = reader.formula(plan)
    if formula is None and confirm is None:
        raise NoFormula(next(iter(reader.refusals)))
    own = reader.allowing(1).dry_run(plan) or formula
    if own is None:
        raise NotConfirmed(list(reader.refusals)[-1])
    by_dry_run = own.basis == "dry-run"
    verdict = own.fit(gpu)
    micro_batch = find_limit(plan, "micro_batch_size", reader, by_dry_run=by_dry_run)
    seq_len = find_limit(plan, "seq_len", reader, by_dry_run=by_dry_run)
    changes = tuple(weigh_changes(plan, gpu.memory_bytes, reader.allowing(_CHANGE_DRY_RUNS)))
    stack: tuple[WeighedChange, ...] = ()
    end = None
    if verdict.fits != "yes":
        stack, end = _stack(plan, gpu, reader)
    methods = _methods(plan, own, (micro_batch, seq_len), reader.allowing(_METHOD_DRY_RUNS))
    offers, about_offers = _offers(plan, own, reader.allowing(_OFFER_DRY_RUNS))
    return FitReport(
        plan=plan,
        gpu=gpu.name,
        gpu_memory_bytes=gpu.memory_bytes,
        basis=own.basis,
        confirmed_by="dry-run" if by_dry_run else None,
        fits=verdict.fits,
        headroom_bytes=verdict.headroom_bytes,
        peak_allocated_bytes=own.peak_allocated_bytes,
        micro_batch_limit=micro_batch,
        seq_len_limit=seq_len,
        trained_length=_trained_length(plan),
        methods=tuple(methods),
        changes=changes,
        stack=stack,
        stack_fits=fits_in(end, gpu.memory_bytes) if end else None,
        stack_confirmed_by="dry-run" if end and end.basis == "dry-run" else None,
        cheapest_gpus=offers,
        notes=tuple(dict.fromkeys((*_without_gpus(own), *about_offers))),
        not_read=tuple(reader.refusals),
        num_dry_runs=reader.num_dry_runs,
        seconds=time.perf_counter() - started,
    )


def _stack(
    plan: FineTunePlan, gpu: Gpu, reader: Reader
) -> tuple[tuple[WeighedChange, ...], MemoryEstimate | None]:
    """Return the stack of changes, and the best reading of the plan at its end.

    Where dry runs need more than the formula says, it is looked for in as much less memory: by
    what the plan itself was short, and once more by what the plan at the end was.
    """
    short_bytes = _more_bytes(reader.formula(plan), reader.dry_run(plan))
    stack, end = _stack_in(plan, gpu.memory_bytes - short_bytes, reader)
    if end is None or end.basis == "formula" or fits_in(end, gpu.memory_bytes) == "yes":
        return stack, end
    shorter_bytes = _more_bytes(reader.formula(end.plan), end)
    if shorter_bytes <= short_bytes:
        return stack, end
    return _stack_in(plan, gpu.memory_bytes - shorter_bytes, reader)


def _stack_in(
    plan: FineTunePlan, capacity_bytes: int, reader: Reader
) -> tuple[tuple[WeighedChange, ...], MemoryEstimate | None]:
    stack = tuple(stack_changes(plan, capacity_bytes, reader.allowing(_STACK_DRY_RUNS)))
    if not stack:
        return (), None
    last = plan
    for change in stack:
        last = with_keys(last, change.keys)
    return stack, reader.allowing(1).dry_run(last) or reader.read(last)


def _more_bytes(read: MemoryEstimate | None, traced: MemoryEstimate | None) -> int:
    if read is None or traced is None:
        return 0
    return max(0, traced.comfortable_need_bytes - read.comfortable_need_bytes)


def _methods(
    plan: FineTunePlan, own: MemoryEstimate, limits: tuple[Limit, Limit], reader: Reader
) -> Iterator[MethodFit]:
    """Yield the plan under each method that can be read, its own as it was confirmed."""
    for method in dict.fromkeys((*METHODS, plan.method)):
        try:
            variant = under_method(plan, method)
            estimate = own if method == plan.method else reader.read(variant)
        except InputError:  # not possible with this method
            continue
        if estimate is None:
            continue
        sizes = limits
        if method != plan.method:
            traced = estimate.basis == "dry-run"
            sizes = (
                NOT_READ if traced else find_limit(variant, "micro_batch_size", reader),
                NOT_READ if traced else find_limit(variant, "seq_len", reader),
            )
        verdict = estimate.fit(plan.gpu_spec)
        yield MethodFit(
            method=method,
            basis=estimate.basis,
            peak_allocated_bytes=estimate.peak_allocated_bytes,
            fits=verdict.fits,
            headroom_bytes=verdict.headroom_bytes,
            largest_micro_batch_size=sizes[0].value,
            longest_seq_len=sizes[1].value,
        )


def _offers(
    plan: FineTunePlan, own: MemoryEstimate, reader: Reader
) -> tuple[tuple[GpuOffer, ...], tuple[str, ...]]:
    """Return the GPUs that the plan fits by price, and what was assumed in judging them.

    The cheapest is checked by a dry run where one may be made; one that then does not fit so well
    gives its place to the next.
    """
    judged = _judged_everywhere(plan, own)
    fits = {fit.name: fit for fit in judged.gpus}
    fits[plan.gpu_spec.name] = own.fit(plan.gpu_spec)
    confirmed = {plan.gpu_spec.name} if own.basis == "dry-run" else set()
    while True:
        offers = cheapest_gpus(fits.values())
        top = offers[0].gpu if offers else None
        if top is None or top in confirmed:
            break
        traced = reader.dry_run(_on(plan, find_gpu(top)))
        if traced is None:
            break
        confirmed.add(top)
        fits[top] = traced.fit(find_gpu(top))
    marked = (
        offer.model_copy(update={"confirmed_by": "dry-run"}) if offer.gpu in confirmed else offer
        for offer in offers
    )
    known = reader.formula(plan) or own
    return tuple(marked), tuple(one for one in judged.assumptions if one not in known.assumptions)


def _without_gpus(estimate: MemoryEstimate) -> tuple[str, ...]:
    """Return the assumptions of a reading that has not been judged on other GPUs than its own."""
    return tuple(one for one in estimate.assumptions if not one.startswith("Not judged on"))


def _judged_everywhere(plan: FineTunePlan, own: MemoryEstimate) -> MemoryEstimate:
    for gpu in (plan.gpu, _WITH_EVERY_KERNEL):
        try:
            return read_formula(plan.changed(gpu=gpu), gpus=bundled_gpus())
        except (NoFormula, InputError):
            continue
    return judge_traced(own, bundled_gpus())


def _on(plan: FineTunePlan, gpu: Gpu) -> FineTunePlan:
    """Return the plan as it would be run on another GPU: with fp16 where there is no bf16."""
    document: dict[str, Any] = plan.to_document() | {"gpu": gpu.name}
    adapter = document["adapter"]
    if not gpu.has_bf16:
        for part, key in (
            (document, "weights_dtype"),
            (document, "autocast_dtype"),
            (adapter, "dtype"),
        ):
            part[key] = "fp16" if part[key] == "bf16" else part[key]
    return parse_plan(document)


def _trained_length(plan: FineTunePlan) -> int | None:
    config = resolve_model(plan.model).config
    longest = config.get("max_position_embeddings") or config.get("n_positions")
    return longest if isinstance(longest, int) else None

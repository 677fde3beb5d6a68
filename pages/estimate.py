"""Estimate: what a plan needs, method beside method, before anything is rented."""

from __future__ import annotations

import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.gpus import Gpu, common_gpus
from estimator.memory import NoFormula
from estimator.plan import FineTunePlan, parse_plan
from estimator.problems import InputError
from pages.ui import charts, readings, show
from pages.ui.navigation import PROVE, ensure_routed
from pages.ui.plan_form import METHODS, plan_document
from pages.ui.state import carried
from reports.explain import full_states
from reports.units import count, gib
from trainer.launch import WorkerFailed

ensure_routed()


def page() -> None:
    """Show the form beside what it asks for."""
    st.title("Estimate")
    st.markdown("What one training step needs on a GPU, for each method, before you rent one.")
    form, results = st.columns([1, 2], gap="large")
    with form:
        document = plan_document()
    with results:
        try:
            show_results(parse_plan(document, name="plan"))
        except InputError as error:
            show.problems(error)


def show_results(plan: FineTunePlan) -> None:
    """Show every reading there is of a plan, for each method, and what to do next."""
    try:
        estimates = readings.formula(plan, METHODS)
    except NoFormula as refusal:
        estimates = []
        st.info(
            f"There is no formula for this plan: {show.plain(str(refusal))}. "
            "The dry run below reads it all the same."
        )
    headline = st.container()
    make_dry_runs(plan)
    rows = with_dry_runs(plan, estimates)
    if rows:
        with headline:
            show_headline(plan, rows)
        show_chart(plan, rows)
        if sentence := full_states(rows):
            st.markdown(show.plain(sentence))
        show_details(rows)
    show_next(plan)


def make_dry_runs(plan: FineTunePlan) -> None:
    """Offer the dry run of the plan's method or of all, and make it with its progress shown."""
    with st.container(horizontal=True, vertical_alignment="center"):
        name = show.method_name(plan.method)
        one = st.button(f"Dry run {name}", icon=":material/play_arrow:")
        every = st.button("Dry run all three")
        st.caption(
            "Runs the real training step on tensors without data: seconds, no GPU, no weights."
        )
    for method in METHODS if every else (plan.method,) if one else ():
        variant = plan.changed(method=method)
        with st.status(f"Dry run of {show.method_name(method)}") as status:
            try:
                made = readings.dry_run(variant, lambda text: status.update(label=text))
            except InputError as error:
                status.update(label="The dry run cannot read this plan", state="error")
                show.problems(error)
            except WorkerFailed as error:
                status.update(label="The dry run failed", state="error", expanded=True)
                st.code(str(error), language=None, wrap_lines=True)
            else:
                label = f"Dry run of {show.method_name(method)}: {made.seconds:.1f} s"
                status.update(label=label, state="complete")


def with_dry_runs(plan: FineTunePlan, estimates: list[MemoryEstimate]) -> list[MemoryEstimate]:
    """Return the formula's estimates, each followed by the dry run of the same plan if known."""
    formulas = {estimate.plan.method: estimate for estimate in estimates}
    rows = []
    for method in METHODS:
        pair = (formulas.get(method), readings.known_dry_run(plan.changed(method=method)))
        rows += [estimate for estimate in pair if estimate]
    return rows


def show_headline(plan: FineTunePlan, rows: list[MemoryEstimate]) -> None:
    """Show the answer for the plan's own method: the peak, the GPU, what is trained."""
    mine = [estimate for estimate in rows if estimate.plan.method == plan.method]
    if not mine:
        return
    best = mine[-1]  # a dry run follows the formula that it refines
    provenance = show.basis_name(best)
    with st.container(horizontal=True, gap="medium"):
        peak = gib(best.peak_allocated_bytes)
        st.metric(f"Peak allocated, {provenance}", peak, width="content")
        st.metric(
            f"Needed on the GPU, {provenance}",
            gib(best.smallest_need_bytes),
            help="The least memory with which the step runs, the CUDA context included.",
            width="content",
        )
        st.metric(
            "Trained parameters",
            count(best.parameters.trainable),
            help=f"of {best.parameters.total:,} in all",
            width="content",
        )
    name = show.method_name(plan.method)
    st.markdown(f"**{name} on {plan.gpu_spec.name}:** {show.verdict(best.fit(plan.gpu_spec))}")


def show_chart(plan: FineTunePlan, rows: list[MemoryEstimate]) -> None:
    """Show each reading as a stacked bar against the memory of GPUs."""
    labelled = [(show.reading_name(estimate), estimate) for estimate in rows]
    sizes = ", ".join(f"{name} {gib(e.peak_allocated_bytes)}" for name, e in labelled)
    st.plotly_chart(
        charts.memory_bars(labelled, gpus_of(plan)),
        key="memory_bars",
        config=charts.CONFIG,
        alt=f"Peak memory by component, one bar a method: {sizes}.",
    )


def gpus_of(plan: FineTunePlan) -> tuple[Gpu, ...]:
    """Return the GPUs to compare with: the common ones and the plan's own."""
    return (*common_gpus(), plan.gpu_spec)


def show_details(rows: list[MemoryEstimate]) -> None:
    """Show the tables behind the chart, each number under its provenance."""
    fits, parts, why = st.tabs(["Which GPU", "By component", "Assumptions"])
    with fits:
        show.fits_table(rows)
    with parts:
        show.breakdown_table(rows, [show.reading_name(estimate) for estimate in rows])
    with why:
        for estimate in rows:
            st.markdown(f"**{show.reading_name(estimate)}**")
            st.markdown("\n".join(f"- {show.plain(text)}" for text in estimate.assumptions))


def show_next(plan: FineTunePlan) -> None:
    """Offer the plan as a file, and the way on to a measured proof."""
    carried().plan = plan
    with st.container(horizontal=True, vertical_alignment="center"):
        # A link, for st.switch_page refuses while widgets are bound to the address.
        st.page_link(PROVE, label="**Prove this**", icon=":material/science:")
        st.download_button(
            "Download the plan",
            plan.to_yaml(),
            file_name="plan.yaml",
            mime="application/yaml",
            icon=":material/download:",
        )


page()

"""Estimate: what a plan needs, method beside method, before anything is rented."""

from __future__ import annotations

import streamlit as st

from estimator.estimate import MemoryEstimate
from estimator.gpus import Gpu, common_gpus
from estimator.memory import NoFormula
from estimator.plan import FineTunePlan
from estimator.problems import InputError
from pages.ui import calibrated, charts, fit, readings, show, time
from pages.ui.learn_links import learn_links
from pages.ui.navigation import PROVE, ensure_routed
from pages.ui.plan_form import METHODS, ask_plan
from pages.ui.state import carried
from reports.explain import full_states
from reports.levels import sizes
from reports.units import count, duration, gib
from trainer.launch import WorkerFailed

ensure_routed()

Plans = dict[str, FineTunePlan]


def page() -> None:
    """Show the form beside what it asks for."""
    st.title("Estimate")
    st.markdown("What one training step needs on a GPU, for each method, before you rent one.")
    learn_links(("full-fine-tuning", "lora", "qlora", "zero"))
    form, results = st.columns([1, 2], gap="large")
    with form:
        asked = ask_plan()
    with results:
        try:
            show_results(asked.method, {method: asked.plan(method) for method in METHODS})
        except InputError as error:
            show.problems(error)


def show_results(method: str, plans: Plans) -> None:
    """Show every reading there is of each method's plan, and what to do next."""
    plan = plans[method]
    formulas = read_formulas(plans)
    headline = st.container()
    asked = dry_run_buttons(method)
    progress = st.container()
    rows = with_dry_runs(plans, formulas)
    if rows:
        with headline:
            show_headline(plan, rows)
        show_chart(plan, rows)
        if sentence := full_states(rows):
            st.markdown(show.plain(sentence))
    show_next(plan)
    fit.make_it_fit(plan)
    if rows:
        show_details(plan, rows)
    with progress:
        worked = [make_dry_run(plans[method]) for method in asked]
        if worked and all(worked):
            st.rerun()


def read_formulas(plans: Plans) -> dict[str, MemoryEstimate]:
    """Return the formula readings there are, and show why there is none for the others."""
    found, refusals = {}, {}
    for method, plan in plans.items():
        try:
            found[method] = readings.formula(plan)
        except NoFormula as refusal:
            refusals.setdefault(refusal.reason, []).append(show.method_name(method))
    for reason, names in refusals.items():
        st.info(
            f"No formula for {', '.join(names)}. {show.plain(reason)} "
            "The dry run reads it all the same."
        )
    return found


def dry_run_buttons(method: str) -> tuple[str, ...]:
    """Offer the dry run of the chosen method or of all, and return the methods asked for."""
    with st.container(horizontal=True, vertical_alignment="center"):
        one = st.button(f"Dry run {show.method_name(method)}", icon=":material/play_arrow:")
        every = st.button("Dry run all three")
        st.caption("The real training step, traced without data: no GPU and no weights needed.")
    return METHODS if every else (method,) if one else ()


def make_dry_run(plan: FineTunePlan) -> bool:
    """Make a dry run with its progress shown, and return whether it worked."""
    name = f"Dry run of {show.method_name(plan.method)}"
    with st.status(name) as status:
        try:
            made = readings.dry_run(
                plan, lambda activity: status.update(label=f"{name}: {show.plain(activity)}")
            )
        except InputError as error:
            status.update(label=f"{name}: not possible", state="error", expanded=True)
            show.problems(error)
            return False
        except WorkerFailed as error:
            status.update(label=f"{name}: failed", state="error", expanded=True)
            st.code(str(error), language=None, wrap_lines=True)
            return False
        carried().dry_runs[plan.method] = made
        status.update(label=f"{name}: {duration(made.seconds)}", state="complete")
        return True


def with_dry_runs(plans: Plans, formulas: dict[str, MemoryEstimate]) -> list[MemoryEstimate]:
    """Return each method's formula reading, followed by its dry run where that is known."""
    rows = []
    for method, plan in plans.items():
        pair = (formulas.get(method), readings.known_dry_run(plan))
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
    time.time_line(best)
    calibrated.beside(best)
    show_bands(best)


def show_bands(estimate: MemoryEstimate) -> None:
    """Show between what limits each size lies, and what moves it."""
    if not estimate.bands:
        return
    found = [f"{one.name} {one.likely} ({one.spread})" for one in sizes(estimate)]
    st.plotly_chart(
        charts.size_bands(estimate, estimate.plan.gpu_spec),
        key="size_bands",
        config=charts.CONFIG,
        alt=f"Likely size, and from low to high: {', '.join(found)}.",
    )
    with st.expander("Which number is which, and what moves it"):
        which = [f"{one.level}: {one.name}, {one.basis or 'not known'}" for one in sizes(estimate)]
        st.markdown("\n".join(f"- {show.plain(text)}" for text in (*which, *estimate.moved_by)))


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


def show_details(plan: FineTunePlan, rows: list[MemoryEstimate]) -> None:
    """Show the tables behind the chart, each number under its provenance."""
    mine = [estimate for estimate in rows if estimate.plan.method == plan.method]
    names = ["Which GPU", "By component", "Over the step", "Time", "Other peaks", "Assumptions"]
    fits, parts, step, how_long, others, why = st.tabs(names)
    with fits:
        best = {estimate.plan.method: estimate for estimate in rows}  # a dry run comes last
        show.fits_table(list(best.values()))
    with parts:
        show.breakdown_table(rows, [show.reading_name(estimate) for estimate in rows])
    with step:
        time.timeline(plan, mine[-1] if mine else None, carried().dry_runs.get(plan.method))
    for tab, piece in ((how_long, time.time_details), (others, time.peaks)):
        with tab:
            if mine:
                piece(mine[-1])  # a dry run follows the formula that it refines
            else:
                st.caption(f"There is no estimate of {show.method_name(plan.method)} yet.")
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

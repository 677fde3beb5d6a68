"""Prove: a few real training steps on this machine, measured and laid beside the estimate."""

from __future__ import annotations

import shlex
from pathlib import Path

import streamlit as st

from estimator.documents import parse_document
from estimator.plan import FineTunePlan, load_plan, parse_plan
from estimator.problems import InputError
from estimator.validation import validate
from pages.ui import show
from pages.ui.navigation import RUNS, ensure_routed
from pages.ui.run_view import show_run
from pages.ui.state import carried
from pages.ui.uploads import save_upload
from trainer.launch import start
from trainer.requests import command_of
from trainer.results import ProbeRequest
from trainer.runs import find_run

ensure_routed()

TINY_PLAN = Path(__file__).parents[1] / "examples" / "tiny.yaml"
CARRIED, TINY, OWN = "From the estimate", "Tiny example", "My own plan"
DATA_TYPES = ["jsonl", "json", "csv", "parquet"]
PLANNED, PATH, UPLOAD = "As planned", "A file on this machine", "Upload"


def page() -> None:
    """Show the run that the address names, or the form that starts one."""
    st.title("Prove")
    run_id = st.query_params.get("run", "")
    if run_id:
        follow(run_id)
        return
    st.markdown(
        "A few real training steps on this machine's GPU, or on its CPU for a small model: "
        "measured, and laid beside the estimate."
    )
    try:
        launch_form()
    except InputError as error:
        show.problems(error)


def follow(run_id: str) -> None:
    """Show one run, found by its id, as often as the page is opened."""
    try:
        run = find_run(run_id)
        plan = run.request().plan
    except InputError as error:
        show.problems(error, "This run cannot be shown:")
        st.page_link(RUNS, label="All runs", icon=":material/list:")
        return
    st.markdown(f"**{show.method_name(plan.method)}** of {show.plain(Path(plan.model).name)}")
    show_run(run)
    with st.container(horizontal=True):
        if st.button("New probe", icon=":material/add:"):
            carried().plan = plan
            st.query_params.clear()
            st.rerun()
        st.page_link(RUNS, label="All runs", icon=":material/list:")


def launch_form() -> None:
    """Ask for plan, data, steps and device, and start the probe."""
    left, right = st.columns(2, gap="large")
    with left:
        plan, plan_path = choose_plan()
    with right:
        data_path = choose_data(plan)
        steps, device = st.columns(2)
        num_steps = steps.number_input("Steps", 2, 100_000, 6, key="num_steps")
        device_name = device.segmented_control(
            "Device", ["auto", "cpu", "cuda"], default="auto", required=True, key="device"
        )
        with st.expander("Memory"):
            find_batch = st.checkbox("Find the largest micro-batch that really runs")
            memory_limit = st.number_input(
                "Pretend the device has no more than (GiB)", 0.01, None, None, key="memory_limit"
            )
    if plan is None:
        return
    document = {
        "plan": plan,
        "data_path": data_path,
        "num_steps": num_steps,
        "device": device_name,
        "memory_limit_gib": memory_limit,
        "find_batch": find_batch,
    }
    request = validate(ProbeRequest, document, "probe")
    st.markdown("The same from a terminal:")
    st.code(shlex.join(command_of(request, plan_path)), language="bash", wrap_lines=True)
    if st.button("Launch the probe", type="primary", icon=":material/rocket_launch:"):
        with st.spinner("Looking at what the probe needs"):
            run = start(request)
        st.query_params["run"] = run.id
        st.rerun()


def choose_plan() -> tuple[FineTunePlan | None, str]:
    """Return the chosen plan, None while there is none, and the name of its file."""
    mine = carried().plan
    sources = [CARRIED, TINY, OWN] if mine else [TINY, OWN]
    source = st.segmented_control(
        "Plan", sources, default=sources[0], required=True, key=f"plan_source_{mine is not None}"
    )
    if source == OWN:
        plan = own_plan()
    elif source == CARRIED:
        plan = mine
    else:
        plan = load_plan(TINY_PLAN)
    if plan is None:
        return None, ""
    with st.expander("The plan in full"):
        st.code(plan.to_yaml(), language="yaml")
        st.download_button("Download", plan.to_yaml(), "plan.yaml", "application/yaml")
    st.markdown(
        f"{show.method_name(plan.method)} of **{show.plain(Path(plan.model).name)}**, "
        f"sequence length {plan.seq_len}, micro batch {plan.micro_batch_size}"
    )
    return plan, "examples/tiny.yaml" if source == TINY else "plan.yaml"


def own_plan() -> FineTunePlan | None:
    """Return the plan that was uploaded or pasted, None while there is neither."""
    uploaded = st.file_uploader("Plan file", type=["yaml", "yml", "json"], max_upload_size=1)
    pasted = st.text_area("or paste it", height=160, placeholder="model: ...\nmethod: lora")
    if uploaded is not None:
        text, name = uploaded.getvalue().decode("utf-8", errors="replace"), uploaded.name
    else:
        text, name = pasted, "pasted plan"
    return parse_plan(parse_document(text, name), name=name) if text.strip() else None


def choose_data(plan: FineTunePlan | None) -> str | None:
    """Return the path of the data, None for what the plan itself says."""
    source = st.segmented_control(
        "Data", [PLANNED, PATH, UPLOAD], default=PLANNED, required=True, key="data_source"
    )
    if source == PATH:
        return st.text_input("Path", placeholder="/data/train.jsonl", key="data_path") or None
    if source == UPLOAD:
        uploaded = st.file_uploader("Training examples", type=DATA_TYPES)
        return str(save_upload(uploaded.name, uploaded.getvalue())) if uploaded else None
    if plan and plan.data.path:
        st.caption(f"The plan names {show.plain(Path(plan.data.path).name)}.")
    else:
        st.caption(
            "The plan names no data: random tokens are used. Memory and speed are those of real "
            "text of this length; the loss says nothing."
        )
    return None


page()

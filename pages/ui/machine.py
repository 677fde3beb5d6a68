"""What this machine can do, in a few figures."""

from __future__ import annotations

import streamlit as st

from pages.ui.show import plain
from reports.units import gib
from reports.words import gpu_memory
from trainer.machine import describe_machine


def show_machine() -> None:
    """Show GPUs, memory and disk of the machine that probes run on."""
    machine = describe_machine()
    st.subheader("This machine", anchor=False)
    with st.container(horizontal=True, gap="medium"):
        whole = f"of {gib(machine.memory_bytes)}"
        st.metric("Memory free", gib(machine.available_bytes), help=whole, width="content")
        st.metric("CPU cores", machine.cpu_cores, width="content")
        disk = gib(machine.disk_free_bytes)
        st.metric("Disk free", disk, help=f"for {machine.runs_folder}", width="content")
    for gpu in machine.gpus:
        st.markdown(f"**{plain(gpu.name)}**: {gpu_memory(gpu)}")
    if not machine.gpus:
        st.markdown(
            "No NVIDIA GPU answers here. Estimates need none; probes run on the CPU, "
            "with a small model."
        )

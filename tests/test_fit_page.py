"""Make it fit, on the estimate page: a change is applied to the form, and taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

PROJECT = Path(__file__).parents[1]
Open = Callable[..., AppTest]


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A main script like app.py, in a folder that has no ``pages/``: see test_pages.py."""
    script = tmp_path_factory.mktemp("entry") / "app.py"
    script.write_text((PROJECT / "app.py").read_text())
    return script


@pytest.fixture
def open_estimate(entry: Path) -> Open:
    def open_(**query: str) -> AppTest:
        app = AppTest.from_file(str(entry), default_timeout=30)
        app.query_params.update(query)
        app.switch_page(str(PROJECT / "pages" / "estimate.py")).run()
        assert not app.exception
        return app

    return open_


def shown(app: AppTest) -> str:
    texts = [element.value for kind in (app.markdown, app.caption) for element in kind]
    return "\n".join(texts).replace("\\", "")


def form(app: AppTest) -> dict[str, object]:
    keys = (
        "method",
        "seq_len",
        "micro_batch_size",
        "gradient_accumulation_steps",
        "lora_r",
        "target_modules",
        "gradient_checkpointing",
        "optimizer",
    )
    return {key: app.session_state[key] for key in keys}


def apply(app: AppTest, change: str) -> None:
    """Click the button beside a change."""
    buttons = [one for one in app.button if one.help.startswith(f"Apply: {change}")]
    buttons[-1].click().run()


@pytest.mark.parametrize(
    ("change", "then"),
    [
        ("gradient checkpointing", {"gradient_checkpointing": True}),
        ("micro-batch 1", {"micro_batch_size": 1, "gradient_accumulation_steps": 128}),
        ("8-bit AdamW", {"optimizer": "adamw_8bit"}),
        ("QLoRA", {"method": "qlora"}),
        ("LoRA rank 4", {"lora_r": 4}),
        ("LoRA on q_proj", {"target_modules": "q_proj and v_proj"}),
        ("examples cut to 128", {"seq_len": 128}),
    ],
)
def test_a_change_is_applied_to_the_form_and_taken_back(
    open_estimate: Open, change: str, then: dict[str, object]
) -> None:
    app = open_estimate(
        model="meta-llama/Llama-3.1-8B",
        method="LoRA",
        seq_len="4096",
        micro_batch_size="8",
        gradient_checkpointing="false",
        gpu="RTX 4090",
    )
    before = form(app)
    peak = app.metric[0].value
    apply(app, change)
    assert not app.exception
    assert form(app) == before | then
    assert app.metric[0].value != peak
    app.button(key="undo_change").click().run()
    assert form(app) == before
    assert app.metric[0].value == peak
    assert "undo_change" not in [button.key for button in app.button]


def test_the_mildest_way_makes_the_plan_fit(open_estimate: Open) -> None:
    app = open_estimate(model="meta-llama/Llama-2-13b-hf", method="Full", gpu="RTX 4090")
    assert "Full on RTX 4090:** :red[no" in shown(app)
    app.button(key="apply_stack").click().run()
    assert app.session_state["method"] == "qlora"
    assert "QLoRA on RTX 4090:** :green[fits" in shown(app)
    app.button(key="undo_change").click().run()
    assert "Full on RTX 4090:** :red[no" in shown(app)


def test_changes_are_taken_back_one_by_one_the_last_first(open_estimate: Open) -> None:
    app = open_estimate(method="LoRA", gpu="RTX 4090", micro_batch_size="32")
    first = form(app)
    apply(app, "8-bit AdamW")
    second = form(app)
    apply(app, "examples cut")
    assert form(app)["seq_len"] < second["seq_len"]
    app.button(key="undo_change").click().run()
    assert form(app) == second
    app.button(key="undo_change").click().run()
    assert form(app) == first


def test_the_gpus_that_it_fits_come_with_price_date_and_source(open_estimate: Open) -> None:
    app = open_estimate(method="QLoRA")
    table = next(one.value for one in app.markdown if one.value.startswith("| GPU"))
    first = table.splitlines()[2].replace("\\", "")
    assert "$0." in first
    assert "2026-" in first
    assert "price not known" in table


def test_where_no_formula_holds_the_terminal_is_named(open_estimate: Open) -> None:
    assert "tuneplan fit" in shown(open_estimate(model="openai/gpt-oss-20b"))

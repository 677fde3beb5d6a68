"""The pages without a browser: what each widget changes, and what is shown for what is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from advisor.recommend import recommend
from advisor.scenario import load_scenario
from estimator.plan import FineTunePlan, parse_plan
from trainer.data_summary import DataSummary
from trainer.evaluation_results import Comparison, Evaluation
from trainer.finetune_results import FineTuneRequest, FineTuneResult
from trainer.results import Change, GpuHolder, OutOfMemory, ProbeRequest, ProbeResult
from trainer.run_writer import RunWriter, create_run
from trainer.runs import Run

PROJECT = Path(__file__).parents[1]
TINY = "examples/tiny-llama"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))


@pytest.fixture(scope="session")
def entry(tmp_path_factory) -> Path:
    """A main script like app.py, in a folder that has no ``pages/``.

    AppTest forgets between two runs that a session has declared its navigation, which a server
    does not; with a ``pages/`` beside the script it would start every run anew.
    """
    script = tmp_path_factory.mktemp("entry") / "app.py"
    script.write_text((PROJECT / "app.py").read_text())
    return script


@pytest.fixture
def open_page(entry):
    def open_(name: str, **query: str) -> AppTest:
        app = AppTest.from_file(str(entry), default_timeout=30)
        app.query_params.update(query)
        app.switch_page(page_file(name)).run()
        assert not app.exception
        return app

    return open_


def page_file(name: str) -> str:
    return str(PROJECT / "pages" / f"{name}.py")


def button(app: AppTest, start: str):
    return next(one for one in app.button if one.label.startswith(start))


def metric(app: AppTest, start: str) -> str:
    return next(one for one in app.metric if one.label.startswith(start)).value


def shown(app: AppTest) -> str:
    """Return what the page says; Markdown's escapes are not shown to anybody."""
    kinds = (app.markdown, app.subheader, app.caption, app.error, app.warning, app.info, app.code)
    texts = [element.value for kind in kinds for element in kind]
    return "\n".join([*texts, *(link.label for link in app.page_link)]).replace("\\", "")


def gib(text: str) -> float:
    number, unit = text.replace(",", "").split()
    return float(number) / (1024 if unit == "MiB" else 1)


def peak(app: AppTest) -> float:
    return gib(metric(app, "Peak allocated"))


class TestHome:
    def test_three_doors_and_this_machine(self, open_page):
        app = open_page("home")
        doors = [button(app, name).label for name in ("Decide", "Estimate", "Prove")]
        assert doors == ["Decide", "Estimate", "Prove"]
        assert gib(metric(app, "Memory free")) > 0

    def test_a_door_opens_its_page(self, open_page):
        app = open_page("home")
        button(app, "Decide").click().run()
        assert app.title[0].value == "Decide"


class TestDecide:
    def test_without_answers_prompting_is_advised(self, open_page):
        app = open_page("decide")
        assert metric(app, "Questions answered") == "0%"
        assert app.subheader[0].value.startswith("Prompting")

    def test_loading_the_example_fills_the_answers_and_shows_its_strategy(self, open_page):
        app = open_page("decide")
        button(app, "Load").click().run()
        assert app.session_state["answer_gap"] == ["facts", "style", "consistency"]
        # its own plan, for the GPU that the plan names, as `tuneplan advise` reads it
        assert app.subheader[0].value.startswith("Retrieval and fine-tuning with LoRA")
        assert metric(app, "Questions answered") == "100%"

    def test_a_scenario_file_gives_what_the_terminal_gives(self, open_page):
        path = PROJECT / "examples" / "support-bot.yaml"
        scenario = load_scenario(path)
        app = open_page("decide")
        uploader = app.get("file_uploader")[0]
        uploader.set_value(("support-bot.yaml", path.read_bytes(), "application/yaml")).run()
        assert not app.exception
        said = recommend(scenario.answers, scenario.plan).sentence
        assert app.subheader[0].value == said
        carried = app.session_state["carried"]
        assert carried.scenario == scenario
        assert carried.plan == scenario.plan

    def test_a_file_that_is_no_scenario_changes_nothing_but_says_why(self, open_page):
        app = open_page("decide")
        app.pills(key="answer_citations").set_value("must").run()
        uploader = app.get("file_uploader")[0]
        uploader.set_value(("x.yaml", b"answers: {citations: perhaps}", "application/yaml")).run()
        assert not app.exception
        assert "citations" in app.error[0].value
        assert app.session_state["answer_citations"] == "must"

    def test_one_answer_changes_the_advice_and_can_be_taken_back(self, open_page):
        app = open_page("decide")
        before = app.subheader[0].value
        app.pills(key="answer_citations").set_value("must").run()
        assert app.subheader[0].value != before
        app.pills(key="answer_citations").set_value(None).run()
        assert app.subheader[0].value == before
        assert metric(app, "Questions answered") == "0%"

    def test_clearing_takes_every_answer_back(self, open_page):
        app = open_page("decide")
        button(app, "Load").click().run()
        button(app, "Clear all answers").click().run()
        assert metric(app, "Questions answered") == "0%"

    def test_another_example_brings_its_own_answers(self, open_page):
        app = open_page("decide")
        picker = app.selectbox(key="example")
        picker.select(picker.options[1]).run()
        button(app, "Load").click().run()
        assert app.session_state["answer_gap"] != ["facts", "style", "consistency"]

    def test_the_recommended_method_is_carried_to_the_estimate(self, open_page):
        app = open_page("decide")
        app.pills(key="answer_gap").set_value(["style", "consistency", "skill"]).run()
        app.pills(key="answer_tried").set_value("exhausted").run()
        app.pills(key="answer_examples").set_value("5k_100k").run()
        assert "with LoRA" in app.subheader[0].value
        button(app, "Estimate this").click().run()
        assert app.title[0].value == "Estimate"
        assert app.session_state["method"] == "lora"

    def test_answers_are_still_there_after_a_look_at_another_page(self, open_page):
        app = open_page("decide")
        app.pills(key="answer_tried").set_value("basic").run()
        app.switch_page(page_file("home")).run()
        app.switch_page(page_file("decide")).run()
        assert app.pills(key="answer_tried").value == "basic"


class TestEstimate:
    @pytest.mark.parametrize(
        ("key", "value", "grows"),
        [
            ("seq_len", 4096, True),
            ("micro_batch_size", 8, True),
            ("lora_r", 256, True),
            ("gradient_checkpointing", False, True),
            ("precision", "pure bf16", False),
            ("optimizer", "sgd", False),
            ("method", "full", True),
            ("model", TINY, False),
        ],
    )
    def test_a_changed_setting_changes_the_peak(self, open_page, key, value, grows):
        app = open_page("estimate")
        app.session_state["method"] = "lora"
        app.run()
        before = peak(app)
        widget = app.get_by_key(key)
        widget.set_value(value)
        app.run()
        assert not app.exception
        assert (peak(app) > before) is grows
        assert peak(app) != before

    def test_the_time_follows_the_plan_and_its_details_name_their_sources(self, open_page):
        app = open_page("estimate")
        first = next(line for line in shown(app).splitlines() if line.startswith("Time on"))
        assert "tokens/s" in first
        assert "llm-foundry" in shown(app)
        app.get_by_key("seq_len").set_value(4096)
        app.run()
        assert first not in shown(app)

    def test_beside_the_step_it_shows_the_other_peaks(self, open_page):
        app = open_page("estimate")
        tables = [set(table.value.index) for table in app.table]
        assert any({"an evaluation batch", "generating text", "saving"} <= rows for rows in tables)
        assert any("disk: one checkpoint" in rows for rows in tables)
        assert "A dry run records the step" in shown(app)

    def test_a_full_fine_tune_of_llama_2_7b_explains_107_8_and_112_gb(self, open_page):
        text = shown(open_page("estimate", method="Full"))
        assert "16 bytes x 6,738,415,616 parameters = 107.8 GB" in text
        assert "textbook figure of 112 GB counts 7e9" in text

    def test_the_gpu_decides_the_verdict(self, open_page):
        app = open_page("estimate", method="Full")
        assert "Full on RTX 4090:** :red[no" in shown(app)
        app.selectbox(key="gpu").select("B200 180GB").run()
        assert "Full on B200 180GB:** :green[fits" in shown(app)

    def test_all_three_methods_are_compared(self, open_page):
        app = open_page("estimate")
        columns = list(app.table[0].value.columns)
        assert columns == ["Full · formula", "LoRA · formula", "QLoRA · formula"]

    def test_a_link_opens_the_form_as_it_was(self, open_page):
        app = open_page("estimate", method="LoRA", seq_len="1024", model="Qwen/Qwen3-8B")
        assert app.number_input(key="seq_len").value == 1024
        assert app.selectbox(key="model").value == "Qwen/Qwen3-8B"
        assert app.session_state["method"] == "lora"

    def test_where_there_is_no_formula_the_dry_run_is_offered(self, open_page):
        app = open_page("estimate", model="openai/gpt-oss-20b")
        assert "No formula for Full, LoRA, QLoRA" in app.info[0].value
        assert button(app, "Dry run all three")

    def test_a_dry_run_narrows_the_sizes_and_is_out_of_date_once_the_plan_changes(self, open_page):
        app = open_page("estimate", model=TINY, method="LoRA", seq_len="64")
        assert "reserved: reserved by the allocator, assumed" in shown(app)
        button(app, "Dry run LoRA").click().run(timeout=120)
        assert gib(metric(app, "Peak allocated, dry run")) > 0
        assert "reserved: reserved by the allocator, dry run" in shown(app)
        assert "A dry run records the step" not in shown(app)
        app.get_by_key("seq_len").set_value(128)
        app.run()
        assert metric(app, "Peak allocated, formula")
        assert "since this dry run you have changed seq_len" in shown(app)
        app.get_by_key("seq_len").set_value(64)
        app.run()
        assert metric(app, "Peak allocated, dry run")
        assert "Out of date" not in shown(app)

    def test_mixed_precision_keeps_frozen_weights_in_16_bits(self, open_page):
        columns = open_page("estimate").table[1].value
        assert columns.loc["weights", "Full · formula"] == "25.1 GiB"
        assert columns.loc["weights", "LoRA · formula"] == "12.6 GiB"

    def test_a_model_that_nobody_knows_is_a_list_of_problems_not_a_traceback(self, open_page):
        app = open_page("estimate", model="nowhere")
        assert "no bundled model of that name" in app.error[0].value
        assert not app.metric

    def test_markdown_in_a_models_name_stays_text(self, open_page):
        app = open_page("estimate", model="![x](http://example.com/a.png)")
        assert "](http" not in app.error[0].value

    def test_proving_carries_the_plan_on(self, open_page):
        app = open_page("estimate", model=TINY, method="LoRA", seq_len="64")
        app.switch_page(page_file("prove")).run()
        assert "sequence length 64" in shown(app)


class TestProve:
    def test_the_command_follows_the_form(self, open_page):
        app = open_page("prove")
        assert "tuneplan probe examples/tiny.yaml --steps 6" in shown(app)
        app.number_input(key="num_steps").set_value(9).run()
        app.session_state["device"] = "cpu"
        app.session_state["data_source"] = "A file on this machine"
        app.run()
        app.text_input(key="data_path").set_value("/data/my file.jsonl").run()
        command = "--data '/data/my file.jsonl' --steps 9 --device cpu"
        assert command in shown(app)

    def test_a_broken_plan_is_a_list_of_problems(self, open_page):
        app = open_page("prove")
        app.session_state["plan_source_False"] = "My own plan"
        app.run()
        app.text_area[0].set_value("model: x\nmethod: magic\nseq_len: -1").run()
        assert not app.exception
        assert "method" in app.error[0].value
        assert "seq" in app.error[0].value

    @pytest.mark.parametrize("name", ["20200101-nothing", "../../etc/passwd"])
    def test_a_run_that_is_not_there_is_said_so(self, open_page, name):
        assert "no such run" in open_page("prove", run=name).error[0].value

    def test_a_loss_that_is_no_number_does_not_break_the_page(self, open_page):
        run = a_run()
        writer = RunWriter(run.folder)
        for step, loss in ((1, 2.5), (2, None)):
            writer.metric({"step": step, "loss": loss, "peak_allocated_bytes": 2**30})
        writer.status(state="failed", reason="the loss diverged")
        app = open_page("prove", run=run.id)
        assert not app.exception
        assert "the loss diverged" in shown(app)

    def test_a_failed_run_shows_its_reason(self, open_page):
        run = a_run()
        RunWriter(run.folder).status(state="failed", reason="the data has no rows")
        text = shown(open_page("prove", run=run.id))
        assert "failed" in text
        assert "the data has no rows" in text

    def test_out_of_memory_is_a_result_that_says_what_was_asked(self, open_page):
        run = a_run()
        writer = RunWriter(run.folder)
        writer.status(state="out_of_memory", ended_at=datetime.now(UTC))
        found = OutOfMemory(
            phase="backward",
            requested_bytes=2**30,
            allocated_bytes=15 * 2**30,
            capacity_bytes=2**34,
            message="",
            changes=(
                Change(override="seq_len=32", peak_allocated_bytes=2**30, keys={"seq_len": 32}),
            ),
            holders=(GpuHolder(pid=77, name="vllm", used_bytes=2**30),),
        )
        writer.result(
            ProbeResult(
                plan=run.request().plan,
                device="cuda",
                device_name="Tesla T4",
                weights="random",
                data="bundled",
                dry_run=None,
                formula=None,
                out_of_memory=found,
            )
        )
        app = open_page("prove", run=run.id)
        text = shown(app)
        assert "Out of memory in the backward phase" in text
        assert "1.0 GiB more, with 15.0 GiB of 16.0 GiB in use" in text
        assert "vllm (pid 77, 1.0 GiB)" in text
        button(app, "Use this").click().run()
        assert not app.exception
        assert "sequence length 32" in shown(app)

    def test_a_fine_tune_shows_whether_it_helped_and_where_its_model_is(self, open_page):
        run = create_run(FineTuneRequest(plan=tiny_plan(), data_path="x.jsonl"))
        writer = RunWriter(run.folder)
        writer.metric({"step": 1, "loss": 4.5, "peak_allocated_bytes": None})
        writer.metric({"step": 1, "validation_loss": 4.2})
        before = Evaluation(validation_loss=4.6, perplexity=99.5, seconds=1, seed=0)
        after = Evaluation(validation_loss=4.2, perplexity=66.7, seconds=1, seed=0)
        comparison = Comparison(
            before=before,
            after=after,
            verdict="learned",
            sentence="It learned <b>much</b>.",
            validation_change=None,
            general_change=None,
        )
        data = DataSummary(
            name="x.jsonl",
            format="text",
            template=None,
            num_examples=20,
            num_train=18,
            num_validation=2,
            num_train_rows=18,
            num_validation_rows=2,
            num_tokens=900,
            num_learned_tokens=900,
            num_truncated=3,
            num_tokens_cut=40,
            left_out={},
            longest_example_tokens=120,
            longest_example="x.jsonl: line 7",
            fingerprint="0" * 64,
        )
        writer.result(
            FineTuneResult(
                plan=run.request().plan,
                device="cpu",
                device_name="CPU",
                data=data,
                learning_rate=1e-3,
                total_steps=1,
                num_steps=1,
                ended="all steps taken",
                comparison=comparison,
                saved="adapter",
            )
        )
        writer.status(state="finished", step=1, num_steps=1)
        text = shown(open_page("prove", run=run.id))
        assert "Did it help?" in text
        assert "It learned <b>much</b>." in text  # shown as it is written
        assert "3 examples are longer than seq" in text
        assert str(run.folder / "model") in text
        assert run.id in shown(open_page("runs"))


class TestRuns:
    def test_no_runs_yet_points_to_the_probe(self, open_page):
        assert "No runs yet" in open_page("runs").info[0].value

    def test_a_run_is_listed_with_its_state(self, open_page):
        run = a_run()
        RunWriter(run.folder).status(state="stopped", step=3)
        text = shown(open_page("runs"))
        assert "stopped" in text
        assert run.id in text
        assert run.id in shown(open_page("home"))

    def test_a_damaged_run_does_not_hide_the_others(self, open_page):
        damaged, good = a_run(), a_run()
        (damaged.folder / "request.json").write_text("{")
        text = shown(open_page("runs"))
        assert damaged.id in text
        assert good.id in text


def a_run() -> Run:
    return create_run(ProbeRequest(plan=tiny_plan()))


def tiny_plan() -> FineTunePlan:
    return parse_plan({"model": str(PROJECT / TINY), "method": "lora"})

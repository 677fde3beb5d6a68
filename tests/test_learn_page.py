"""The page that explains the words, and the ways to it."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from advisor.learn import topics
from estimator.plan import parse_plan
from pages.ui.state import Carried

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """A main script like app.py, in a folder that has no pages beside it."""
    entry = tmp_path_factory.mktemp("entry") / "app.py"
    entry.write_text((PROJECT / "app.py").read_text(encoding="utf-8"), encoding="utf-8")
    return entry


def opened(script: Path, name: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(script), default_timeout=30)
    app.query_params.update(query)
    app.switch_page(str(PROJECT / "pages" / f"{name}.py")).run()
    assert not app.exception
    return app


def test_all_topics_stand_on_the_page_and_one_can_be_picked(script):
    app = opened(script, "learn")
    assert [one.value for one in app.header] == [topic.title for topic in topics()]
    assert [one.anchor for one in app.header] == [topic.id for topic in topics()]
    app.selectbox[0].select("lora").run()
    assert [one.value for one in app.header] == ["LoRA"]
    assert "lora" in app.query_params["topic"]


def test_the_address_names_a_topic_by_any_of_its_names(script):
    app = opened(script, "learn", topic="fsdp")
    assert [one.value for one in app.header] == ["ZeRO and FSDP"]
    assert "removes no parameter" in "".join(one.value for one in app.markdown)
    assert "not explained" in opened(script, "learn", topic="lorra").error[0].value


def test_decide_hides_what_is_beside_the_point_and_links_to_the_words(script):
    app = opened(script, "decide")
    before = {one.key for one in app.pills}
    app.pills(key="answer_ext").set_value("none").run()
    gone = before - {one.key for one in app.pills}
    assert gone == {
        f"answer_{one}" for one in ("volatility", "corpus", "citations", "acl", "halluc")
    }
    assert any(one.label.startswith("What is prompt engineering") for one in app.page_link)


def test_the_plan_that_is_carried_decides_the_method(script):
    app = opened(script, "decide")
    app.button[0].click().run()  # loads the first example, which is for a consumer's GPU
    app.session_state["carried"] = Carried()
    app.run()
    assert "with QLoRA" in app.subheader[0].value
    plan = parse_plan({"model": "meta-llama/Llama-2-7b-hf", "method": "lora", "gpu": "RTX 4090"})
    app.session_state["carried"] = Carried(plan=plan)
    app.run()
    assert "with LoRA" in app.subheader[0].value
    assert any("own plan" in one.value for one in app.markdown)

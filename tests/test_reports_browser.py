"""The HTML report in a real browser with the network off: on a wide screen, a phone and paper."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from report_samples import DAY, finetune_run, probe_runs, search_run

from advisor.scenario import load_scenario
from reports.build import build_report
from reports.render import render

EXAMPLE = Path(__file__).parents[1] / "examples" / "support-bot.yaml"
CHROMIUM = os.environ.get("TUNEPLAN_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
# Of each picture: is it wide enough, and does each drawn part of it lie within the page?
PICTURES = """() => [...document.querySelectorAll('[role=img]')].map(picture => {
  const box = picture.getBoundingClientRect();
  const parts = [...picture.querySelectorAll('rect, polyline, polygon, circle, text')];
  const beyond = parts.map(one => one.getBoundingClientRect())
    .filter(one => one.left < -1 || one.right > innerWidth + 1);
  return [box.width > 250 && box.height > 60 && parts.length > 2, beyond.length];
})"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.enable_socket,
    pytest.mark.skipif(not CHROMIUM, reason="NO BROWSER: set TUNEPLAN_CHROMIUM to a Chromium"),
]


def test_every_picture_shows_with_the_network_off_on_any_screen_and_on_paper(
    tmp_path: Path,
) -> None:
    scenario = load_scenario(EXAMPLE)
    long = "w" * 300
    scenario = scenario.model_copy(update={"title": f"A {long}", "notes": long})
    plan = scenario.plan
    runs = [*probe_runs(plan, long), finetune_run(plan, long), search_run(plan, long)]
    path = tmp_path / "report.html"
    path.write_bytes(render(build_report(scenario, runs, today=DAY), "html"))
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(offline=True)
        asked: list[str] = []
        said: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        for width in (390, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.as_uri())
            pictures = page.evaluate(PICTURES)
            assert len(pictures) == 8  # scores, map, memory, totals, months, volumes, inputs, loss
            assert pictures == [[True, 0]] * 8, width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.emulate_media(media="print", color_scheme="dark")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.set_viewport_size({"width": 690, "height": 900})  # A4 less its margins
        assert page.evaluate("document.documentElement.scrollWidth") <= 690
        browser.close()
    assert (dark, paper) == ("rgb(18, 24, 31)", "rgb(255, 255, 255)")
    assert set(asked) == {path.as_uri()}
    assert said == []

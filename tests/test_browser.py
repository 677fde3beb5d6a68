"""The app in a real browser, on a real server, with a real probe on the CPU."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from trainer.launch import stop
from trainer.runs import Run

APP = Path(__file__).parents[1] / "app.py"
CHROMIUM = os.environ.get("TUNEPLAN_CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PAGES = {  # a deep link comes first: a fresh server takes its first visitor another way
    "estimate": "Estimate",
    "decide": "Decide",
    "prove": "Prove",
    "runs": "Runs",
    "learn": "Learn",
    "": "tuneplan",
}
PROBE_MS = 200_000

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),  # one server, killed and started again
    pytest.mark.enable_socket,
    pytest.mark.skipif(not CHROMIUM, reason="NO BROWSER: set TUNEPLAN_CHROMIUM to a Chromium"),
]


class Server:
    """The app's server on one port; it can be killed and started again."""

    def __init__(self, home: Path) -> None:
        self.home = home
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = ["-m", "streamlit", "run", str(APP), "--server.port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, *words],
            cwd=self.home,  # not the project: nothing may depend on where the server was started
            env=os.environ | {"TUNEPLAN_HOME": str(self.home), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1).status == 200
        except OSError:
            return False

    def torch_libraries(self) -> list[str]:
        """Return torch's shared libraries in the server's memory, which importing it would map."""
        mapped = [Path(one.path).name for one in psutil.Process(self.process.pid).memory_maps()]
        assert any(name.endswith(".so") or ".so." in name for name in mapped)
        return [name for name in mapped if "torch" in name]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    server = Server(home)
    yield server
    server.kill()
    for folder in (home / "runs").glob("*"):  # a probe outlives its server, also in a failed test
        stop(Run(folder), grace_seconds=1)


@pytest.fixture(scope="module")
def chromium():
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    page = chromium.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(15_000)
    yield page
    page.close()


def settle(page: Page) -> None:
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def title(page: Page):
    return page.get_by_role("heading", level=1)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def test_a_deep_link_opens_its_page_first_and_torch_stays_out_of_the_server(server, page):
    for path, heading in PAGES.items():
        page.goto(f"{server.url}/{path}")
        expect(title(page)).to_have_text(heading)
        settle(page)
        expect(page.get_by_test_id("stException")).to_have_count(0)
    assert not server.torch_libraries()


def test_pages_fit_a_phone(server, chromium):
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    for path, heading in PAGES.items():
        page.goto(f"{server.url}/{path}")
        expect(title(page)).to_have_text(heading)
        settle(page)
        main = page.get_by_test_id("stMain")
        assert main.evaluate("main => main.scrollWidth - main.clientWidth") <= 0, path
    page.close()


def test_from_the_problem_to_the_proof(server, page):
    page.goto(server.url)
    press(page, "Decide")
    expect(title(page)).to_have_text("Decide")
    press(page, "Load")
    expect(page.get_by_role("heading", name="Retrieval and fine-tuning with LoRA")).to_be_visible()
    press(page, "Estimate this: LoRA")
    expect(title(page)).to_have_text("Estimate")
    expect(page.get_by_text("LoRA on RTX 4090:")).to_be_visible()
    choose_tiny_model(page)
    page.get_by_role("spinbutton", name="Sequence length").fill("64")
    page.get_by_role("spinbutton", name="Sequence length").press("Enter")
    settle(page)
    press(page, "Dry run LoRA")
    expect(page.get_by_text("Peak allocated, dry run")).to_be_visible(timeout=PROBE_MS)
    page.get_by_role("link", name="Prove this").click()
    expect(title(page)).to_have_text("Prove")
    expect(page.get_by_text("tuneplan probe plan.yaml --steps 6")).to_be_visible()
    press(page, "Launch the probe")
    expect(page.get_by_role("button", name="Stop")).to_be_visible(timeout=20_000)
    wait_for_result(page)
    expect(page.get_by_text("6 of 6 steps")).to_be_visible()
    expect(page.get_by_text(re.compile(r"The dry run said .*%"))).to_be_visible()
    assert "run=" in page.url
    assert not server.torch_libraries()


def wait_for_result(page: Page) -> None:
    """Wait until the run is over and has measured; a run that failed is not waited for."""
    over = page.get_by_text(re.compile("^(finished|failed|stopped|out of memory)$"))
    expect(over).to_be_visible(timeout=PROBE_MS)
    expect(over).to_have_text("finished")
    expect(page.get_by_text("Measured peak:")).to_be_visible()


def choose_tiny_model(page: Page) -> None:
    page.get_by_role("combobox", name="Model").fill("tiny-llama")
    page.get_by_role("option", name="examples/tiny-llama").click()
    settle(page)


def test_a_probe_outlives_its_server_and_is_found_again(server, page):
    page.goto(f"{server.url}/prove")
    page.get_by_role("spinbutton", name="Steps").fill("12")
    page.get_by_role("spinbutton", name="Steps").press("Enter")
    expect(page.get_by_text("--steps 12")).to_be_visible()
    press(page, "Launch the probe")
    expect(page.get_by_text(re.compile(r"[1-9]\d* of 12 steps"))).to_be_visible(timeout=PROBE_MS)
    server.kill()
    server.start()
    page.reload()
    wait_for_result(page)
    expect(page.get_by_text("12 of 12 steps")).to_be_visible()
    page.goto(f"{server.url}/runs")
    expect(page.get_by_text("finished").first).to_be_visible()


def test_a_live_probe_can_be_stopped(server, page):
    page.goto(f"{server.url}/prove")
    page.get_by_role("spinbutton", name="Steps").fill("5000")
    page.get_by_role("spinbutton", name="Steps").press("Enter")
    expect(page.get_by_text("--steps 5000")).to_be_visible()
    press(page, "Launch the probe")
    expect(page.get_by_text(re.compile(r"[1-9]\d* of 5000 steps"))).to_be_visible(timeout=PROBE_MS)
    press(page, "Stop")
    expect(page.get_by_text("stopped", exact=True)).to_be_visible(timeout=PROBE_MS)

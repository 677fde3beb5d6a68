"""A report's four forms: the same content, the same bytes, and nothing that text can break."""

from __future__ import annotations

import csv
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt
from report_samples import DAY, finetune_run, probe_runs, search_run

from advisor.scenario import Scenario, load_scenario
from commands import report as command
from estimator.problems import InputError
from reports import as_json
from reports.build import Report, build_report
from reports.csv_file import HEAD
from reports.measured_runs import FineTuneRun, SearchRun, read_runs
from reports.render import Form, render
from trainer.finetune_results import FineTuneRequest
from trainer.run_writer import RunWriter, create_run
from trainer.search_results import Dimension, SearchRequest

PROJECT = Path(__file__).parents[1]
FORMS: tuple[Form, ...] = ("html", "md", "csv", "json")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
HOSTILE = (
    "=HYPERLINK(1) <script>alert(1)</script><img src=x onerror=alert(1)></td></table></details> "
    "| `a` ``` **b** _c_ [d](e) ![f](g) <h> &lt; {{ 7 * 7 }} $x$ $y$ \\ \x00\x07\x1b[31m\u202e "
    "\n# i\n- j\n\n    k\n---\r\n1. l " + "w" * 3000
)


def a_report(scenario: Scenario, text: str) -> Report:
    """A report in which people's own words are ``text``, wherever they may stand."""
    plan = scenario.plan
    runs = [*probe_runs(plan, text), finetune_run(plan, text), search_run(plan, text)]
    words = scenario.model_copy(update={"title": text, "notes": text})
    return build_report(words, runs, today=DAY)


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return load_scenario(PROJECT / "examples" / "support-bot.yaml")


@pytest.fixture(scope="module")
def report(scenario: Scenario) -> Report:
    return a_report(scenario, "plain")


@pytest.fixture(scope="module")
def hostile(scenario: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The same with hostile words; the model's name is hostile too."""
    folder = tmp_path_factory.mktemp("model") / "=cmd|'`<b>*x*_y_$z$"
    shutil.copytree(PROJECT / "examples" / "tiny-llama", folder)
    return a_report(with_model(scenario, folder), HOSTILE)


@pytest.fixture(scope="module")
def tame(scenario: Scenario) -> Report:
    """The same with plain words, of the same model."""
    return a_report(with_model(scenario, PROJECT / "examples" / "tiny-llama"), "plain")


def with_model(scenario: Scenario, folder: Path) -> Scenario:
    plan = scenario.plan.changed(model=str(folder))
    return scenario.model_copy(update={"plan": plan})


def table(report: Report) -> list[list[str]]:
    text = render(report, "csv").decode()
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


class Tags(HTMLParser):
    """Every tag of a page with the names of its attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag):
        self.found.append((f"/{tag}",))


def markdown_structure(text: str) -> list[str]:
    """What a Markdown document consists of, its texts left out."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    inner = (one for token in tokens for one in (token, *(token.children or ())))
    return [one.type for one in inner if one.type not in ("text", "text_special")]


@pytest.mark.parametrize("form", FORMS)
def test_equal_input_gives_equal_bytes(form: Form, report: Report, scenario: Scenario) -> None:
    assert render(report, form) == render(a_report(scenario, "plain"), form)


def test_hostile_text_changes_nothing_of_the_page_but_itself(hostile, tame) -> None:
    page = render(hostile, "html").decode()
    assert Tags(page).found == Tags(render(tame, "html").decode()).found
    assert "<script" not in page
    assert not {"\x00", "\x07", "\x1b", "\u202e"} & set(page)


def test_hostile_text_changes_nothing_of_the_markdown_but_itself(hostile, tame) -> None:
    text = render(hostile, "md").decode()
    assert markdown_structure(text) == markdown_structure(render(tame, "md").decode())
    assert not {"\x00", "\x07", "\x1b", "\u202e"} & set(text)


def test_no_cell_of_a_spreadsheet_is_a_formula(hostile, tame) -> None:
    found = table(hostile)
    assert len(found) == len(table(tame))
    assert {len(row) for row in found} == {len(HEAD)}
    risky = [cell for row in found for cell in row if cell.startswith(FORMULA)]
    assert risky
    for cell in risky:  # negative numbers, which stay numbers
        float(cell)
    titles = [row[3] for row in found if row[:3] == ["report", "", "title"]]
    assert titles[0].startswith("'=HYPERLINK(1) <script>")


@pytest.mark.parametrize("start", [*FORMULA, " =", "\N{FULLWIDTH EQUALS SIGN}"])
def test_text_that_a_spreadsheet_would_run_is_quoted(start: str) -> None:
    report = build_report(Scenario(title=f"{start}1+1"), today=DAY)
    title = next(row[3] for row in table(report) if row[2] == "title")
    assert title == f"'{start.strip()}1+1"


def test_csv_holds_the_numbers_of_the_report(report: Report) -> None:
    head, *found = table(report)
    assert tuple(head) == HEAD
    values = {tuple(row[:3]): row for row in found}
    estimate = report.estimates[0]
    weights = values["memory", "full", "component.weights"]
    assert weights[3:6] == [str(estimate.components_bytes["weights"]), "bytes", "formula"]
    rag = next(one for one in report.costs.strategies if one.id == "rag")
    assert float(values["cost", "rag", "in_all"][3]) == float(rag.total_usd)
    assert values["finetune", "20261122-finetune", "validation_loss.step.2"][3] == "1.75"
    prices = [row for row in found if row[0] == "cost input" and "USD" in row[4]]
    quoted = [row for row in prices if row[5] == "quoted"]
    assert quoted
    assert all(row[6] and row[7] for row in quoted)


def test_markdown_says_what_the_page_says(report: Report) -> None:
    text = render(report, "md").decode()
    kinds = markdown_structure(text)
    assert kinds.count("table_open") > 15
    assert report.recommendation.recommendation.do_now in text
    assert "| +1.8 |" in text
    assert "It learned. The loss fell from 2 to 1.5." in text


def test_json_holds_to_the_published_schema(report: Report, hostile: Report) -> None:
    published = json.loads((PROJECT / "docs" / "report.schema.json").read_text(encoding="utf-8"))
    assert as_json.schema() == published, "python -m reports.as_json > docs/report.schema.json"
    Draft202012Validator.check_schema(published)
    validator = Draft202012Validator(published)
    for one in (report, hostile, build_report(Scenario(), today=DAY)):
        validator.validate(json.loads(render(one, "json")))
    document = json.loads(render(report, "json"))
    assert document["recommendation"]["what_would_change"][0].keys() >= {"from", "to"}
    assert document["costs"]["strategies"][0]["total_usd"]
    assert document["probes"][1]["result"]["out_of_memory"]["phase"] == "forward"
    assert not validator.is_valid(document | {"probes": [{}]})


def write_runs(plan) -> list[str]:
    """Write a fine-tune and a search as workers do, and return their ids."""
    finetune, search = finetune_run(plan), search_run(plan)
    space = (Dimension(key="learning_rate", low=1e-4, high=1e-1),)
    requests = (FineTuneRequest(plan=plan), SearchRequest(plan=plan, searched=space))
    ids = []
    for request, found in zip(requests, (finetune, search), strict=True):
        run = create_run(request)
        writer = RunWriter(run.folder)
        writer.status(state="running")
        for loss in (2.5, None, 1.25) if found is finetune else ():
            writer.metric({"step": len(run.metrics()) + 1, "loss": loss})
        writer.result(found.result)
        writer.status(state="finished")
        ids.append(run.id)
    return ids


def test_the_command_writes_what_render_gives_with_runs_of_every_kind(
    tmp_path: Path, scenario: Scenario, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.runs import find_run

    ids = write_runs(scenario.plan)
    output = tmp_path / "deep" / "report.json"
    source = PROJECT / "examples" / "support-bot.yaml"
    command.report(source, output, command.Format.json, [*ids, ids[0]])
    assert capsys.readouterr().out == f"{output}\n"
    runs = read_runs(map(find_run, ids))
    document = json.loads(output.read_bytes())
    made_on = DAY.fromisoformat(document["made_on"])
    again = build_report(load_scenario(source), runs, today=made_on)
    assert output.read_bytes() == render(again, "json")
    finetune, search = runs
    assert isinstance(finetune, FineTuneRun)
    assert isinstance(search, SearchRun)
    losses = [(one.step, one.training_loss, one.validation_loss) for one in finetune.losses]
    assert losses == [(1, 2.5, None), (2, None, 1.75), (3, 1.25, None)]
    assert len(document["finetunes"]) == len(document["searches"]) == 1


def test_every_run_without_a_result_is_named_and_nothing_is_written(
    tmp_path: Path, scenario: Scenario
) -> None:
    runs = [create_run(FineTuneRequest(plan=scenario.plan)) for _ in range(2)]
    RunWriter(runs[0].folder).status(state="failed", reason="no GPU")
    RunWriter(runs[1].folder).status(state="running")
    output = tmp_path / "report.csv"
    source = PROJECT / "examples" / "support-bot.yaml"
    with pytest.raises(InputError) as error:
        command.report(source, output, command.Format.csv, [one.id for one in runs])
    said = str(error.value)
    assert f"run {runs[0].id}: is failed and has no result" in said
    assert f"run {runs[1].id}: is running and has no result; fix: wait for its end" in said
    assert not output.exists()

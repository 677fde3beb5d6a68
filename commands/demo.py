"""The whole job once, on the bundled examples."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.text import Text

from advisor.recommend import recommend
from advisor.scenario import load_scenario
from commands.watch import run_probe
from estimator.compare import METHODS, compare_methods, under_method
from estimator.documents import write_out
from estimator.plan import load_plan
from reports import terminal, terminal_advice
from reports.build import build_report
from reports.measured_runs import read_runs
from reports.render import render
from trainer.results import ProbeRequest, ProbeResult


def run_demo(examples: Path, output: Path) -> bool:
    """Advise, estimate, probe and report, and return whether every probe ended well.

    Args:
        examples: The folder of the bundled examples.
        output: Where the HTML report goes.
    """
    console = Console(highlight=False)

    def show(title: str, result: RenderableType) -> None:
        console.print("", Rule(title, align="left"), result)

    scenario = load_scenario(examples / "support-bot.yaml")
    advice = recommend(scenario.answers, scenario.plan)
    show(f"1. Advice: {scenario.title}", terminal_advice.advice(advice))

    textbook = load_plan(examples / "llama-2-7b.yaml")
    show("2. Estimate: three methods side by side", terminal.comparison(compare_methods(textbook)))

    tiny = load_plan(examples / "tiny.yaml")
    show("3. Proof: real fine-tunes of a tiny model on this CPU", "")
    outcomes = [
        run_probe(
            ProbeRequest(
                plan=under_method(tiny, method),
                data_path=tiny.data.path,
                num_steps=20,
                device="cpu",
                memory_limit_gib=None,
            )
        )
        for method in METHODS
    ]
    results = [one.result for one in outcomes if isinstance(one.result, ProbeResult)]
    for outcome in outcomes:
        console.print(outcome.sentence, soft_wrap=True, markup=False)

    runs = read_runs([one.run for one in outcomes if one.result])
    report = build_report(scenario, runs, today=datetime.now(tz=UTC).date())
    write_out(output, render(report, "html"))
    show("4. Report", Text(f"{output.resolve()}"))
    show("5. The same step, read three ways", terminal.readings(results))
    return all(outcome.is_good for outcome in outcomes)

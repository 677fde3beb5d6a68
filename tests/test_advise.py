"""tuneplan advise on a terminal: a real one, driven key by key, and what is printed there."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pexpect
import pytest
from rich.console import Console
from typer.testing import CliRunner

from advisor.recommend import recommend
from advisor.scenario import bundled_cases, literature_cases, load_answers, load_scenario
from estimator.problems import InputError
from reports.terminal_advice import advice
from tuneplan import app

EXAMPLES = Path(__file__).parents[1] / "examples"


def terminal(home: Path, *arguments: str) -> pexpect.spawn:
    """A terminal in which tuneplan advise runs."""
    child = pexpect.spawn(
        sys.executable,
        ["-m", "tuneplan", "advise", *arguments],
        env={**os.environ, "TUNEPLAN_HOME": str(home)},
        encoding="utf-8",
        timeout=30,
        dimensions=(60, 100),
        # a shell that runs the tests in its background lets its children ignore Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    child.delaybeforesend = None
    return child


def quit_after_four(home: Path) -> None:
    """Answer four questions, one of them twice, and stop."""
    child = terminal(home)
    child.expect("1/25 +What does a well-prompted model get wrong")
    child.sendline("1, 4")  # facts, style
    child.expect("2/25 +How far have you taken prompting")
    child.sendline("9")
    child.expect("Please give one number from 1 to 4")
    child.sendline("?")
    child.expect("tuneplan learn prompt-engineering")
    child.sendline("b")
    child.expect("answered: It does not know our facts; The tone or style is wrong")
    child.sendline("")  # leaves it
    child.expect("2/25")
    child.sendline("4")  # exhausted
    child.expect("3/25")
    child.sendline("")  # skips evals
    child.expect("4/25")
    child.sendline("1")
    child.expect("5/25 +How much do answers rest")
    child.sendline("1")  # not at all: five questions are beside the point now
    child.expect("6/20 +What do typical requests look like")
    child.sendline("q")
    child.expect("4 answers are kept in")
    child.expect("tuneplan advise --resume")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    kept = {"gap": ["facts", "style"], "tried": "exhausted", "task": "stable", "ext": "none"}
    assert load_answers(home / "answers.yaml") == kept


def test_answers_back_help_quit_and_resume_in_a_real_terminal(home):
    quit_after_four(home)
    child = terminal(home)
    child.expect("4 answers are kept in .* Go on with them")
    child.sendline("")
    child.expect("6/20 +What do typical requests look like")
    child.sendline("4")
    for _ in range(14):
        child.sendline("")
    child.expect("The tone or style is wrong")
    child.expect("of the questions that matter are answered")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    assert not (home / "answers.yaml").exists(), "what is answered to the end is no draft"


def test_ctrl_c_keeps_the_answers(home):
    child = terminal(home, "--save", str(home / "mine.yaml"))
    child.expect("1/25")
    child.sendline("4")
    child.expect("2/25")
    child.expect("keep the answers and stop")
    time.sleep(0.2)  # until it reads: a signal in the moment before is seen after the next key
    child.sendintr()
    child.expect("1 answer is kept")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert load_answers(home / "mine.yaml") == {"gap": ["style"]}


def test_a_file_of_answers_is_never_overwritten_unasked(home, monkeypatch):
    from commands.ask import ask

    home.mkdir()
    path = home / "mine.yaml"
    path.write_text("gap: [style]\n", encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", io.StringIO("1\n"))
    with pytest.raises(InputError, match="--resume"):
        ask(save=path)
    assert path.read_text(encoding="utf-8") == "gap: [style]\n"


def run(*arguments: str, typed: str = "") -> dict:
    """What tuneplan advise --json prints, without a process of its own."""
    done = CliRunner().invoke(app, ["advise", "--json", *arguments], input=typed)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_what_is_saved_gives_the_same_advice(tmp_path):
    path = tmp_path / "answers.yaml"
    asked = run("--save", str(path), typed="4\n4\n4\n1\n1\n" + "\n" * 30)
    assert asked == recommend(load_answers(path)).to_document() == run(str(path))
    assert asked["recommendation"]["strategy"] == "finetune"
    run("--save", str(path), "--fresh", typed="0\n" + "\n" * 30)
    assert load_answers(path) == {"gap": []}, "nothing is missing: an answer, not a skipped one"


def printed(found) -> str:
    stream = io.StringIO()
    Console(file=stream, width=2000).print(advice(found))
    return stream.getvalue()


@pytest.mark.parametrize("one", [*bundled_cases(), *literature_cases()], ids=lambda one: one.title)
def test_every_score_can_be_added_up_from_what_is_printed(one):
    found = recommend(one.answers)
    text = printed(found)
    sums = text.partition("How every score is made")[2]
    for ranked in found.ranking:
        terms, _, total = re.search(
            rf"^ {re.escape(ranked.title)}: (.*) (=) (\S+)\s*$", sums, re.M
        ).groups()
        points = [float(term) for term in re.findall(r"[+-][\d.]+(?= [A-Z]\d\d| range)", terms)]
        assert sum(points) == pytest.approx(float(total), abs=1e-6)
        assert float(total) == ranked.score == pytest.approx(sum(r.points for r in ranked.reasons))
    for reason in found.ranking[0].reasons:
        assert reason.text in text
        assert all(counter.text in text for counter in reason.counter)


def test_every_flip_is_printed():
    scenario = load_scenario(EXAMPLES / "support-bot.yaml")
    found = recommend(scenario.answers, scenario.plan)
    text = printed(found).partition("What would change the advice")[2]
    assert len(found.what_would_change) >= 5
    assert "“None” or “1 to 49”: Retrieval (RAG)." in text
    assert "“There are no documents” instead of" in text


def test_data_suggests_and_changes_nothing():
    scenario, data = str(EXAMPLES / "support-bot.yaml"), str(EXAMPLES / "questions.jsonl")
    alone, beside = run(scenario), run(scenario, "--data", data)
    suggestions = beside.pop("suggestions")
    assert alone.pop("suggestions") == []
    assert alone == beside
    amount = next(one for one in suggestions if one["signal"] == "amount")
    answers = amount["question"], amount["answer"], amount["given"], amount["agrees"]
    assert answers == ("examples", "50_499", "500_4999", False)

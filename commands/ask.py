"""The questionnaire on a terminal: one question at a time, back and forth, and never lost."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import typer

from advisor.answers import Answers, parse_answers
from advisor.questions import Question, questions
from estimator.documents import read_document, to_yaml, write_out
from estimator.problems import InputError, Problem

_NOTHING = "0"
_KEYS = "b: back   empty: skip   ?: help   q: keep the answers and stop"


class _Stopped(Exception):
    """Somebody stopped answering; ``status`` is what the process exits with."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__()


@dataclass(slots=True)
class _Draft:
    """The answers so far, in a file that each answer is written to at once.

    ``is_named`` says that a person chose the file: it then stays when all is answered, and must be
    writable. Without it questions can still be asked: ``cannot_keep`` then says why.
    """

    path: Path
    is_named: bool
    cannot_keep: str = ""

    def read(self) -> Answers | None:
        """Return the answers that are kept, None where there are none to go on with."""
        try:
            return parse_answers(read_document(self.path), str(self.path)) or None
        except InputError:
            if self.is_named and self.path.exists():
                raise
            return None

    def write(self, answers: Answers) -> None:
        try:
            write_out(self.path, to_yaml(dict(answers)))
        except InputError as error:
            if self.is_named:
                raise
            if not self.cannot_keep:
                self.cannot_keep = str(error)
                _say(f"The answers cannot be kept while you answer: {error}")

    def remove(self) -> None:
        if not self.is_named and not self.cannot_keep:
            self.path.unlink(missing_ok=True)


def ask(*, save: Path | None = None, resume: bool | None = None) -> Answers:
    """Ask every question that matters and return the answers.

    Every answer is written down at once, so that nothing is lost however the conversation ends;
    stopping early ends the process, and says how to go on.

    Args:
        save: Where the answers go; by default a draft in the user's folder.
        resume: Whether to go on with answers that are kept there; None asks.

    Raises:
        InputError: The file cannot be written, or holds something else.
        Exit: Somebody stopped: status 0 for ``q`` or Ctrl-D, 130 for Ctrl-C.
    """
    draft = _draft(save)
    answers: Answers = {}
    try:
        answers = _kept(draft, resume)
        _converse(answers, draft)
    except _Stopped as stopped:
        _say_how_to_go_on(answers, draft)
        raise typer.Exit(stopped.status) from None
    draft.remove()
    return parse_answers(answers)


def _draft(save: Path | None) -> _Draft:
    if save is not None:
        return _Draft(save, is_named=True)
    from trainer.runs import runs_folder

    return _Draft(runs_folder().parent / "answers.yaml", is_named=False)


def _kept(draft: _Draft, resume: bool | None) -> Answers:
    """Return the answers to start from: those kept, where they are wanted."""
    if resume is False:
        return {}
    kept = draft.read()
    if kept is None:
        if resume:
            _say(f"Nothing is kept in {draft.path}: starting anew.")
        return {}
    if resume is None and not sys.stdin.isatty():
        if draft.is_named:
            what, fix = "already holds answers", "add --resume to go on with them, or --fresh"
            raise InputError(Problem(str(draft.path), what, fix=fix))
        return {}
    if resume is None:
        _say(f"{_kept_count(kept)} kept in {draft.path}. Go on with them? (empty: yes, n: no)")
        if _read().lower().startswith("n"):
            return {}
    _say("Going on with what is kept.")
    return dict(kept)


def _converse(answers: Answers, draft: _Draft) -> None:
    """Ask from the first question behind the last answer on, until all are asked."""
    order = questions()
    place = max((index + 1 for index, one in enumerate(order) if one.id in answers), default=0)
    while (place := _next_open(answers, place)) < len(order):
        question = order[place]
        _show(question, answers, place)
        typed = _read()
        if typed.lower() == "q":
            raise _Stopped(0)
        if typed.lower() == "b":
            place = _previous(answers, place)
        elif typed == "?":
            _say(_help(question))
        elif not typed:
            place += 1
        elif typed == "-":
            answers.pop(question.id, None)
            draft.write(answers)
            place += 1
        elif (answer := _answer(typed, question)) is not None:
            answers[question.id] = answer
            draft.write(answers)
            place += 1
        else:
            allowed = "numbers" if question.many else "one number"
            _say(f"Please give {allowed} from 1 to {len(question.choices)}. ({_KEYS})")


def _next_open(answers: Answers, place: int) -> int:
    order = questions()
    while place < len(order) and order[place].made_irrelevant_by(answers):
        place += 1
    return place


def _previous(answers: Answers, place: int) -> int:
    before = [
        index
        for index, one in enumerate(questions()[:place])
        if one.made_irrelevant_by(answers) is None
    ]
    if not before:
        _say("This is the first question.")
    return before[-1] if before else place


def _show(question: Question, answers: Answers, place: int) -> None:
    relevant = [one for one in questions() if one.made_irrelevant_by(answers) is None]
    number = sum(one in relevant for one in questions()[: place + 1])
    lines = [f"\n{number}/{len(relevant)}  {question.text}", f"    {question.why}"]
    lines += [f"  {index:>2}  {label}" for index, (_, label) in enumerate(question.choices, 1)]
    if question.many:
        lines.append(f"  {_NOTHING:>2}  None of these")
    if question.id in answers:
        now = question.label(answers[question.id])
        lines.append(f"    answered: {now} (empty: leave it, -: take it back)")
    lines.append(
        f"Numbers, separated by commas ({_KEYS})" if question.many else f"Number ({_KEYS})"
    )
    _say("\n".join(lines))


def _help(question: Question) -> str:
    labels = dict(question.choices)
    lines = [f"    {question.help}"]
    lines += [f"    {labels[value]}: {text}" for value, text in question.choice_help.items()]
    lines += [f"    More: tuneplan learn {topic}" for topic in question.learn]
    return "\n".join(lines)


def _answer(typed: str, question: Question) -> str | list[str] | None:
    """Return what was typed as an answer, None where it is none."""
    if question.many and typed == _NOTHING:
        return []
    chosen = [_choice(word, question) for word in typed.replace(",", " ").split()]
    known = [value for value in chosen if value is not None]
    if not known or len(known) != len(chosen) or (len(known) > 1 and not question.many):
        return None
    return known if question.many else known[0]


def _choice(word: str, question: Question) -> str | None:
    if word.isdecimal() and 1 <= int(word) <= len(question.choices):
        return question.values[int(word) - 1]
    return word if word in question.values and not word.isdecimal() else None


def _read() -> str:
    """Return the line typed, without the space around it.

    Raises:
        _Stopped: Ctrl-C, Ctrl-D, or the end of what was piped in.
    """
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        raise _Stopped(130) from None
    if not line:
        raise _Stopped(0 if sys.stdin.isatty() else 1)
    return line.strip()


def _say_how_to_go_on(answers: Answers, draft: _Draft) -> None:
    if not answers or draft.cannot_keep:
        _say(f"\nNothing is kept: {draft.cannot_keep or 'nothing was answered.'}")
        return
    again = f"tuneplan advise --save {draft.path}" if draft.is_named else "tuneplan advise"
    _say(
        f"\n{_kept_count(answers)} kept in {draft.path}.\n"
        f"Go on with:              {again} --resume\n"
        f"See the advice so far:   tuneplan advise {draft.path}"
    )


def _kept_count(answers: Answers) -> str:
    return f"{len(answers)} answers are" if len(answers) != 1 else "1 answer is"


def _say(text: str) -> None:
    typer.echo(text, err=True)

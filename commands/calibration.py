"""tuneplan calibration: list, show, export, import, forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from commands.shared import AsJson, Force, refuse_overwriting, show
from estimator.problems import InputError, Problem

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What probes taught about this machine."
)

LessonName = Annotated[
    str | None, typer.Argument(metavar="[LESSON]", help="A lesson's id, or its start.")
]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the lessons that are kept, newest first."""
    from estimator.lesson_files import read_lessons
    from reports import terminal_calibration
    from trainer.lessons import calibration_folder

    kept = read_lessons(calibration_folder())
    documents = [{"id": one.id, **one.to_document()} for one in reversed(kept.lessons)]
    document = {"lessons": documents, "damaged": list(kept.damaged)}
    show(document, lambda: terminal_calibration.lessons(kept), as_json)


@app.command("show")
def show_(lesson: LessonName = None, as_json: AsJson = False) -> None:
    """Show what the lessons say together; of one lesson, its evidence."""
    from estimator.calibration import by_device
    from estimator.lesson_files import find_lesson, read_lessons
    from reports import terminal_calibration
    from trainer.lessons import calibration_folder, today

    folder = calibration_folder()
    if lesson is not None:
        one = find_lesson(folder, lesson)
        document = {"id": one.id, **one.to_document()}
        show(document, lambda: terminal_calibration.lesson(one), as_json)
        return
    found = by_device(read_lessons(folder).lessons, today())
    document = {"calibrations": [one.to_document() for one in found]}
    show(document, lambda: terminal_calibration.learnt(found), as_json)


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where to.")],
    force: Force = False,
) -> None:
    """Write your own lessons as one JSON to share: no paths, names, data or hosts in it."""
    from estimator.documents import write_out
    from estimator.lesson_files import export_text, read_lessons
    from trainer.lessons import calibration_folder, today

    text = export_text(read_lessons(calibration_folder()).lessons, today())
    refuse_overwriting(output, force)
    write_out(output, text)
    typer.echo(str(output))


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    source: Annotated[
        str, typer.Option("--source", metavar="TEXT", help="Who it is from; else the file's name.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Take in lessons that somebody shared; used only where you have none of your own."""
    from rich.text import Text

    from estimator.lesson_files import import_lessons, keep, read_lessons
    from reports.units import num_of
    from trainer.lessons import calibration_folder, today

    folder = calibration_folder()
    lessons = import_lessons(file, today(), source)
    known = {one.id for one in read_lessons(folder).lessons}
    new = [one.id for one in lessons if one.id not in known]
    try:
        for one in lessons:
            keep(folder, one)
    except OSError as error:
        what, fix = f"cannot be written ({error.strerror})", "set TUNEPLAN_HOME to another folder"
        raise InputError(Problem(str(folder), what, fix=fix)) from error
    told = f"{num_of(len(new), 'lesson')} imported from {lessons[0].imported_from}."
    if len(new) < len(lessons):
        told += f" The other {len(lessons) - len(new)} of {len(lessons)} were here already."
    document = {"imported": [one.id for one in lessons], "new": new}
    show(document, lambda: Text(told), as_json)


@app.command()
def forget(
    lesson: LessonName = None,
    every: Annotated[bool, typer.Option("--all", help="Forget every lesson.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete one lesson, or all of them."""
    from rich.text import Text

    from estimator.lesson_files import find_lesson, forget, forget_all
    from reports.units import num_of
    from trainer.lessons import calibration_folder

    folder = calibration_folder()
    if (lesson is None) != every:
        raise InputError(
            Problem("calibration forget", "what to forget?", "a lesson's id, or --all", "name one")
        )
    if lesson is None:
        num_lessons = forget_all(folder)
    else:
        forget(folder, find_lesson(folder, lesson))
        num_lessons = 1
    told = f"{num_of(num_lessons, 'lesson')} forgotten."
    show({"forgotten": num_lessons}, lambda: Text(told), as_json)

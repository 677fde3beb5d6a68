"""Lessons on disk, one file each, and the one JSON in which they can be shared."""

from __future__ import annotations

import contextlib
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from estimator.documents import read_text, write_atomic
from estimator.lessons import Lesson
from estimator.problems import InputError, Problem
from estimator.records import Record
from estimator.validation import validate

MAX_KEPT = 200
"""Own lessons that are kept, the newest, and as many imported ones; one takes some 2 KB."""

MAX_IMPORT_BYTES = 4 * 2**20

MAX_PROBLEMS = 20
"""More would push the first off the screen."""

MAX_SHOWN = 200
"""How much of a foreign value a problem repeats, in characters."""


class LessonFile(Record):
    """Lessons as they are shared; ``kind`` tells the file from other JSON."""

    kind: Literal["tuneplan-lessons"]
    version: Literal[1]
    exported_on: date
    lessons: tuple[Lesson, ...] = Field(max_length=MAX_KEPT)


class Kept(Record):
    """The lessons of a folder, oldest first, and the files that hold none."""

    lessons: tuple[Lesson, ...]
    damaged: tuple[str, ...]


def read_lessons(folder: Path) -> Kept:
    """Return the lessons that are kept in a folder."""
    found, damaged = [], []
    for file in sorted(folder.glob("*.json")):
        try:
            found.append(Lesson.model_validate_json(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            damaged.append(file.name)
    found.sort(key=lambda one: (one.made_on, one.id))
    return Kept(lessons=tuple(found), damaged=tuple(damaged))


def keep(folder: Path, lesson: Lesson) -> Path:
    """Write a lesson into a folder, and let the oldest beyond the limit go.

    A lesson of one's own takes the place of the same one that was imported, never the other way.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{lesson.id}.json"
    if not (lesson.imported_from and file.exists()):
        write_atomic(file, lesson.model_dump_json(indent=2) + "\n")
    is_imported = bool(lesson.imported_from)
    same = [one for one in read_lessons(folder).lessons if bool(one.imported_from) == is_imported]
    for old in [one for one in same if one.id != lesson.id][: max(0, len(same) - MAX_KEPT)]:
        (folder / f"{old.id}.json").unlink(missing_ok=True)
    return file


def find_lesson(folder: Path, name: str) -> Lesson:
    """Return the lesson whose id starts with ``name``.

    Raises:
        InputError: There is none, or more than one.
    """
    lessons = read_lessons(folder).lessons
    found = [one for one in lessons if name and one.id.startswith(name)]
    if len(found) == 1:
        return found[0]
    what = f"{name!r} fits {len(found)} lessons"
    some = found or lessons
    known = ", ".join([*(one.id for one in some[-5:]), *["..."] * (len(some) > 5)])
    raise InputError(Problem("lesson", what, known, "see `tuneplan calibration list`"))


def forget(folder: Path, lesson: Lesson) -> None:
    """Delete a lesson.

    Raises:
        InputError: Its file cannot be deleted.
    """
    _delete(folder / f"{lesson.id}.json")


def forget_all(folder: Path) -> int:
    """Delete every lesson, damaged files included, and return how many there were."""
    files = list(folder.glob("*.json"))
    for file in files:
        _delete(file)
    return len(files)


def _delete(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot be deleted ({error.strerror})"
        raise InputError(Problem(str(file), what, fix="make its folder writable")) from error


def export_text(lessons: tuple[Lesson, ...], today: date) -> str:
    """Return one's own lessons as the JSON that can be shared; imported ones stay out.

    Raises:
        InputError: There are none.
    """
    own = [one for one in lessons if not one.imported_from][-MAX_KEPT:]
    if not own:
        what = "there is no lesson of your own to export"
        raise InputError(Problem("calibration", what, fix="run `tuneplan probe PLAN` first"))
    document = {
        "kind": "tuneplan-lessons",
        "version": 1,
        "exported_on": today.isoformat(),
        "lessons": [one.model_dump(mode="json", exclude={"imported_from"}) for one in own],
    }
    return json.dumps(document, indent=1) + "\n"


def import_lessons(file: Path, today: date, source: str = "") -> tuple[Lesson, ...]:
    """Return the lessons of a file that somebody shared, marked with where they are from.

    Args:
        file: What :func:`export_text` made, perhaps changed since by anybody.
        today: Lessons of the future are refused.
        source: Who it is from; the file's name where nothing is said.

    Raises:
        InputError: The file is no export, or something in it is wrong; every problem is listed.
    """
    where = str(file)
    document = _parse(where, file)
    given = document.get("lessons")
    if isinstance(given, list) and any(
        isinstance(one, dict) and one.get("imported_from") for one in given
    ):
        what = "holds lessons that were imported themselves"
        fix = "get the export of whoever made the probes"
        raise InputError(Problem(f"{where}: lessons", what, fix=fix))
    found = _validated(document, where)
    if not found.lessons:
        raise InputError(Problem(f"{where}: lessons", "is empty", fix="get another export"))
    future = [one for one in found.lessons if one.made_on > today + timedelta(days=1)]
    if future:
        raise InputError(
            Problem(
                where, f"a lesson was made on {one.made_on}", "no later than today", "ask again"
            )
            for one in future
        )
    said = " ".join((source or file.name).split())[:160]
    mark = f"{said}, exported {found.exported_on}"
    return tuple(one.model_copy(update={"imported_from": mark}) for one in found.lessons)


def _validated(document: dict[str, Any], where: str) -> LessonFile:
    """Return a foreign document as lessons; what it says of itself is shown short and harmless."""
    try:
        return validate(LessonFile, document, where)
    except InputError as error:
        raise InputError(
            Problem(_harmless(one.where), _harmless(one.what), one.allowed, _harmless(one.fix))
            for one in error.problems[:MAX_PROBLEMS]
        ) from None


def _harmless(text: str) -> str:
    """Return text without what a terminal would obey, cut where it goes on too long."""
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]} ..."


def _parse(where: str, file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        if file.stat().st_size > MAX_IMPORT_BYTES:
            what = f"is larger than {MAX_IMPORT_BYTES // 2**20} MiB: no export is"
            raise InputError(Problem(where, what, fix="name the file that `export` wrote"))
    fix = "name the file that `tuneplan calibration export` wrote"
    try:
        document = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(Problem(where, "is not JSON", fix=fix)) from error
    if not isinstance(document, dict):
        raise InputError(Problem(where, "is no export of lessons", "a JSON object", fix))
    return document

"""A worker that is told to end (SIGTERM): at once, but with what it has measured so far."""

from __future__ import annotations

import signal
import threading
from types import FrameType

_asked = threading.Event()


class Ended(BaseException):
    """The worker was told to end at once; no library may take it for an error of its own."""


class StoppedEarly(Exception):
    """The run was asked to stop before there was anything to keep; the message says at what."""


def listen() -> None:
    """From now on let SIGTERM raise :class:`Ended` in the main thread, once."""
    signal.signal(signal.SIGTERM, _end)


def is_asked() -> bool:
    """Return whether the worker was told to end.

    Python drops what is raised while an object is being destroyed, and a recorder's callbacks run
    just then: whoever takes steps asks at the end of each.
    """
    return _asked.is_set()


def _end(_number: int, _frame: FrameType | None) -> None:
    if not _asked.is_set():
        _asked.set()
        raise Ended

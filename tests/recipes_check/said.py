"""How a reader tells what it found, one line a recipe."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path


def each_recipe(read: Callable[[Path], str]) -> None:
    """Read every recipe that the command line names, from within its folder."""
    for name in sys.argv[2:]:
        folder = Path(name)
        os.chdir(folder)
        try:
            what, ok = read(folder), True
        except (Exception, SystemExit) as error:  # noqa: BLE001  any refusal is a finding
            lines = traceback.format_exc().splitlines()
            what, ok = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}", False
            print("\n".join(lines[-12:]), file=sys.stderr)
        print("### " + json.dumps({"folder": name, "ok": ok, "what": what}), flush=True)

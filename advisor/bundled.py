"""The bundled tables: YAML in which every value is a text, and so means what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

_DATA = Path(__file__).with_name("data")

# Read by libyaml, some twenty times faster than what reads people's own files: the advice has to
# be there at once. The base loader leaves `no` and `1_49` the words that they are.
_Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_bundled(name: str) -> Any:
    """Return what the file ``data/{name}.yaml`` of this package holds; every scalar is a text."""
    with (_DATA / f"{name}.yaml").open(encoding="utf-8") as stream:
        return yaml.load(stream, _Loader)

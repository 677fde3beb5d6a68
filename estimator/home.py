"""Where tuneplan keeps what is its user's own."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home_folder() -> Path:
    """Return ``$TUNEPLAN_HOME``, or the user's data folder; it need not exist."""
    home = os.environ.get("TUNEPLAN_HOME")
    return Path(home) if home else platformdirs.user_data_path("tuneplan", appauthor=False)

"""What the project's plain records have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A record that does not change and knows its keys: an unknown one is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True)

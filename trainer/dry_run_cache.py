"""Dry runs that were made before: kept by plan, model, libraries and tuneplan's own sources."""

from __future__ import annotations

import contextlib
import hashlib
import json
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import ValidationError

from estimator.documents import write_atomic
from estimator.estimate import Device, MemoryEstimate
from estimator.models import resolve_model
from estimator.plan import FineTunePlan
from trainer.runs import runs_folder

MAX_KEPT = 200
"""Readings that are kept, the newest; one takes some 20 KB."""

_PROJECT = Path(__file__).resolve().parent.parent
_NOT_OF_A_STEP = ("data", "epochs", "schedule")
_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def find_dry_run(plan: FineTunePlan, device: Device) -> MemoryEstimate | None:
    """Return the reading of an equal plan by the same software, None where there is none.

    Raises:
        InputError: The model cannot be found.
    """
    try:
        text = _file(plan, device).read_text(encoding="utf-8")
        return MemoryEstimate.model_validate_json(text).model_copy(update={"plan": plan})
    except (OSError, ValidationError):
        return None


def keep_dry_run(estimate: MemoryEstimate) -> None:
    """Keep a reading for the next time; where it cannot be written there is none."""
    file = _file(estimate.plan, estimate.device)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, estimate.model_dump_json())
        kept = sorted(file.parent.glob("*.json"), key=lambda one: one.stat().st_mtime)
        for old in kept[:-MAX_KEPT]:
            old.unlink(missing_ok=True)


def _file(plan: FineTunePlan, device: Device) -> Path:
    described = {
        "plan": {k: v for k, v in plan.to_document().items() if k not in _NOT_OF_A_STEP},
        "weight_decay": plan.schedule.weight_decay,
        "config": resolve_model(plan.model).config,
        "device": device,
        "software": _software(),
    }
    text = json.dumps(described, sort_keys=True, default=str)
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return runs_folder().parent / "cache" / "dry-runs" / f"{name}.json"


@cache
def _software() -> dict[str, str]:
    """Return all that a reading depends on besides its plan; another version reads anew."""
    found = {}
    for name in _LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    sources = hashlib.sha256()
    for folder in ("estimator", "trainer"):
        for file in sorted((_PROJECT / folder).rglob("*")):
            if file.suffix in (".py", ".json", ".csv"):
                sources.update(file.read_bytes())
    return found | {"tuneplan": sources.hexdigest()}

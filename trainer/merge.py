"""Merging an adapter into its base model: afterwards it is a model like any other."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from estimator.problems import InputError, Problem
from trainer.quiet import quiet_libraries
from trainer.saved import Merged, MergeRequest, print_problems, tell
from trainer.saved_model import (
    SavedAdapter,
    base_folder,
    load_base,
    load_tokenizer,
    read_adapter,
    with_adapter,
)

_MERGEABLE = ("LORA", "IA3")  # DoRA and rsLoRA are kinds of LORA
_SHARD_SIZE = "5GB"
_FRONT_MATTER = re.compile(r"---\n.*?\n---\n+", re.DOTALL)
_RELATION = ("base_model_relation: adapter", "base_model_relation: merge")  # the Hub's words
_LOADING = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its id on the Hub
model = AutoModelForCausalLM.from_pretrained(folder, dtype="{dtype}")
tokenizer = AutoTokenizer.from_pretrained(folder)"""


def merge(
    folder: Path,
    output: Path,
    *,
    device: torch.device | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Merged:
    """Write an adapter's base model with the adapter merged into its weights.

    The base is taken unquantised in the type that the adapter was trained in, also where the
    adapter was trained on quantised weights (QLoRA): what quantisation took away comes back, and
    the adapter had learned to do without it, so answers can differ a little. The folder appears
    whole or not at all.

    Args:
        folder: The adapter's.
        output: Where the model goes; must not be there yet.
        device: Where to add up; the CPU where none is named.
        on_progress: Told what is being done, in words for people.

    Raises:
        InputError: It is no adapter, one that cannot be merged, or the output is there already
            or cannot be written; nothing is left behind.
    """
    report = on_progress or (lambda _: None)
    adapter = read_adapter(folder)
    if adapter is None:
        what = "is a whole model already: there is no adapter to merge"
        raise InputError(Problem(str(folder), what, fix="use it as it is"))
    _check(adapter, output)
    where = device or torch.device("cpu")
    source = base_folder(adapter)
    report(f"loading {adapter.base}")
    base = load_base(adapter, source, where)
    dtype = str(base.dtype).removeprefix("torch.")
    merged = with_adapter(base, adapter, where)
    report("merging")
    merged = merged.merge_and_unload(safe_merge=True)
    report("saving")
    size_bytes = sum(one.numel() * one.element_size() for one in merged.parameters())
    result = Merged(
        folder=str(output),
        base=adapter.base,
        dtype=dtype,
        trained_on=adapter.trained_on,
        size_bytes=size_bytes,
    )
    _write(merged, load_tokenizer(folder, source), adapter, result)
    return result


def _check(adapter: SavedAdapter, output: Path) -> None:
    if adapter.kind not in _MERGEABLE:
        kind = adapter.kind.lower().replace("_", " ")
        what = f"is {kind}, which has no weights to merge: it puts learned vectors into the input"
        fix = "use the adapter beside its base, or train LoRA or IA3"
        raise InputError(Problem(str(adapter.folder), what, "LoRA, DoRA, rsLoRA, IA3", fix))
    if output.exists():
        what = "is there already, and nothing is overwritten"
        raise InputError(Problem(str(output), what, fix="name a folder that is not there yet"))


def _write(model: Any, tokenizer: Any, adapter: SavedAdapter, result: Merged) -> None:
    """Save into a folder beside the output, which takes its name once it is whole."""
    output = Path(result.folder)
    temporary = output.with_name(f".{output.name}.{secrets.token_hex(8)}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _check_room(output.parent, result.size_bytes)
        temporary.mkdir()
        model.save_pretrained(temporary, max_shard_size=_SHARD_SIZE)
        tokenizer.save_pretrained(temporary)
        if (adapter.folder / "plan.json").exists():
            shutil.copy(adapter.folder / "plan.json", temporary)
        (temporary / "README.md").write_text(_card(adapter, result), encoding="utf-8")
        temporary.rename(output)
    except (OSError, SafetensorError) as error:  # safetensors says a full disk in its own words
        what = f"cannot be written ({getattr(error, 'strerror', None) or error})"
        fix = "name a folder on a disk with room"
        raise InputError(Problem(str(output), what, fix=fix)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_room(folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        needed, there = size_bytes / 2**30, free / 2**30
        what = f"the merged model takes {needed:.1f} GiB, and the disk has {there:.1f} GiB free"
        raise InputError(Problem(str(folder), what, fix="name a folder on a disk with room"))


def _card(adapter: SavedAdapter, result: Merged) -> str:
    """The adapter's card, headed by what has become of it."""
    file = adapter.folder / "README.md"
    card = file.read_text(encoding="utf-8") if file.exists() else ""
    match = _FRONT_MATTER.match(card)
    metadata = match[0] if match else ""
    for old, new in (("library_name: peft", "library_name: transformers"), _RELATION):
        metadata = metadata.replace(old, new)
    lines = [
        f"{metadata}# Merged model",
        f"This is {result.base} with an adapter merged into its weights, in {result.dtype}: a "
        "whole model that needs no other.",
    ]
    if result.trained_on != "none":
        lines.append(
            f"The adapter was trained on {result.trained_on} weights and merged into unquantised "
            "ones, so answers can differ a little from those of the adapter."
        )
    lines.append(f"```python\n{_LOADING.format(dtype=result.dtype)}\n```")
    rest = card[len(match[0]) if match else 0 :].strip()
    if rest:
        lines.append("What follows is the adapter's own card, as it was saved with it.")
        lines.append(rest)
    return "\n\n".join(lines) + "\n"


def main() -> int:
    """Read a request on stdin, print what was merged on stdout."""
    quiet_libraries()
    request = MergeRequest.model_validate(json.load(sys.stdin))
    try:
        result = merge(Path(request.folder), Path(request.output), on_progress=tell)
    except InputError as error:
        print_problems(error)
        return 2
    sys.stdout.write(result.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())

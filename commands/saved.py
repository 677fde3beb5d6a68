"""tuneplan generate and merge: what a fine-tune saved, put to use."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commands.shared import AsJson, show

if TYPE_CHECKING:
    from rich.text import Text

    from trainer.saved import Generated, Merged

SavedName = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A finished fine-tune, or a model's or adapter's folder."),
]


class Quantization(StrEnum):
    """How the weights are stored for inference."""

    none = "none"
    int8 = "int8"
    nf4 = "nf4"


class PromptFormat(StrEnum):
    """How a prompt is put to the model."""

    chat = "chat"
    prompt_completion = "prompt_completion"
    text = "text"


class Device(StrEnum):
    """Where the model is run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def generate(
    run: SavedName,
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What to answer.")],
    quantization: Annotated[
        Quantization | None,
        typer.Option("--quantization", help="Instead of how it was trained."),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", metavar="N", min=1, max=100_000)
    ] = 256,
    form: Annotated[
        PromptFormat | None,
        typer.Option("--format", help="Instead of that of the training data."),
    ] = None,
    device: Annotated[Device, typer.Option("--device", help="Where to run.")] = Device.auto,
    as_json: AsJson = False,
) -> None:
    """Let a fine-tuned model answer a prompt, always with its likeliest words."""
    from commands.watch import Progress
    from estimator.validation import validate
    from trainer import saved

    request = validate(
        saved.GenerateRequest,
        {
            "folder": str(saved.find_saved(run)),
            "prompt": prompt,
            "format": form.value if form else None,
            "quantization": quantization.value if quantization else None,
            "max_new_tokens": max_new_tokens,
            "device": device.value,
        },
        "generate",
    )
    with Progress("generate") as progress:
        found = saved.generate(request, progress)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
    else:
        typer.echo(_answer(found))  # line by line as it was written, not broken at some width


def _answer(found: Generated) -> str:
    # What a model writes is not to be trusted: control characters could take over the terminal.
    said = "".join(one for one in found.output if one.isprintable() or one in "\n\t")
    if found.was_cut:
        said += f"\n(cut off after {found.num_new_tokens} tokens: raise --max-new-tokens)"
    return said


def merge(
    run: SavedName,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="A folder not there yet.")
    ],
    as_json: AsJson = False,
) -> None:
    """Merge a fine-tune's adapter into its base: afterwards it is a model like any other."""
    from commands.watch import Progress
    from trainer import saved

    request = saved.MergeRequest(folder=str(saved.find_saved(run)), output=str(output.absolute()))
    with Progress("merge") as progress:
        found = saved.merge(request, progress)
    show(found.to_document(), lambda: _merged(found), as_json)


def _merged(found: Merged) -> Text:
    from rich.text import Text

    said = f"{found.folder}: {found.base} with the adapter merged in, {found.dtype}, "
    said += f"{found.size_bytes / 2**30:.3g} GiB."
    if found.trained_on != "none":
        said += (
            f" The adapter was trained on {found.trained_on} weights and is merged into "
            "unquantised ones: answers can differ a little."
        )
    return Text(said)

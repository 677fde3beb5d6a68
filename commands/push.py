"""tuneplan push: publish what a fine-tune saved."""

from __future__ import annotations

from typing import Annotated

import typer

from commands.shared import AsJson, RunName, show
from estimator.problems import InputError, Problem


def push(
    run: RunName,
    repo_id: Annotated[str, typer.Argument(metavar="ID", help="Where to: owner/name.")],
    public: Annotated[bool, typer.Option("--public", help="For everybody to see.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish a fine-tune's adapter or model, with card and plan, on the Hugging Face Hub."""
    from rich.text import Text

    from commands.watch import Progress
    from trainer import publish
    from trainer.runs import find_run

    found = find_run(run)
    folder = found.folder / "model"
    if not folder.is_dir():
        what = "has saved no model"
        raise InputError(Problem(f"run {found.id}", what, fix="name a finished fine-tune"))
    with Progress(f"push to {repo_id}") as progress:
        url = publish.push(folder, repo_id, private=not public, on_progress=progress)
    document = {"run": found.id, "url": url, "private": not public}
    show(document, lambda: Text(f"Published: {url}"), as_json)

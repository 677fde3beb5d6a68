"""Answers from a model: greedy, from the prompt's tokens as training has them."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from estimator.problems import InputError, Problem
from trainer.chat_template import TemplateProblem
from trainer.device import choose_device
from trainer.example_formats import Columns, Example, ExampleFormat, Turn, example_of
from trainer.quiet import quiet_libraries
from trainer.saved import Generated, GenerateRequest, print_problems, read_plan, tell
from trainer.tokens import encoder_of, prompt_text
from trainer.untyped import transformers


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote, and whether it would have gone on."""

    text: str
    num_tokens: int
    was_cut: bool


def prompt_tokens(tokenizer: Any, example: Example) -> list[int]:
    """Return the tokens that a model is given to answer an example, as training has them.

    Raises:
        TemplateProblem: The chat template refuses the conversation.
    """
    encoder = encoder_of(tokenizer)
    # A chat template writes the sequence's beginning itself; in other text the tokenizer does.
    adds_special = not (example.turns and encoder.chat_template)
    text = prompt_text(example, encoder)
    ids = encoder.backend.encode(text, add_special_tokens=adds_special).ids
    ends_by_itself = adds_special and len(ids) > 1 and ids[-1] == encoder.eos_token_id
    return ids[:-1] if ends_by_itself else ids


def generate(model: Any, tokenizer: Any, prompt: list[int], *, max_new_tokens: int) -> Answer:
    """Return what the model writes after a prompt, taking the likeliest token each time.

    Args:
        model: In evaluation mode.
        tokenizer: Hugging Face's.
        prompt: Tokens, at least one.
        max_new_tokens: Where it is cut off if it has not ended by itself.
    """
    ends = _end_tokens(model, tokenizer)
    fill = tokenizer.pad_token_id
    config = transformers.GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # a chat model's own defaults would bend the figures
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=fill if fill is not None else next(iter(ends), 0),
    )
    ids = torch.tensor([prompt], device=model.device)
    with torch.no_grad():
        written = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config
        )
    new = written[0, len(prompt) :].tolist()
    text = tokenizer.decode(new, skip_special_tokens=True).strip()
    return Answer(text, len(new), was_cut=not new or new[-1] not in ends)


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """The tokenizer's end of sequence, and the model's own (a chat model has several)."""
    own = model.generation_config.eos_token_id
    found = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(one for one in found if one is not None))


def answer(request: GenerateRequest) -> Generated:
    """Load a saved model and answer one prompt.

    Raises:
        InputError: It cannot be loaded, or the prompt has no tokens.
    """
    from trainer.saved_model import load_saved

    device = choose_device(request.device)
    folder = Path(request.folder)
    tell("loading the model")
    model, tokenizer = load_saved(folder, quantization=request.quantization, device=device)
    form = request.format or format_of(folder, tokenizer)
    try:
        prompt = prompt_tokens(tokenizer, as_example(request.prompt, form))
    except TemplateProblem as error:
        fix = "use --format text, or another model"
        raise InputError(Problem("--prompt", str(error), fix=fix)) from error
    if not prompt:
        raise InputError(Problem("--prompt", "has no tokens", fix="write something"))
    tell("writing")
    started = time.perf_counter()
    found = generate(model, tokenizer, prompt, max_new_tokens=request.max_new_tokens)
    return Generated(
        prompt=request.prompt,
        output=found.text,
        num_prompt_tokens=len(prompt),
        num_new_tokens=found.num_tokens,
        was_cut=found.was_cut,
        format=form,
        device="cuda" if device.type == "cuda" else "cpu",
        seconds=time.perf_counter() - started,
    )


def format_of(folder: Path, tokenizer: Any) -> ExampleFormat:
    """Return the format that a saved model was trained on, as far as its folder tells.

    The saved plan's; without one chat where the tokenizer has a template for it, else text.
    """
    plan = read_plan(folder)
    if plan is not None and plan.data.format != "auto":
        return plan.data.format
    return "chat" if tokenizer.chat_template else "text"


def as_example(prompt: str, form: ExampleFormat) -> Example:
    """Return the example of a format whose answer to a prompt is still to be written."""
    if form == "text":
        return Example(prompt=prompt)
    if form == "prompt_completion":
        columns = Columns(form, ("prompt", "completion"))
        return example_of({"prompt": prompt, "completion": "?"}, columns)
    return Example(turns=(Turn("user", prompt), Turn("assistant", "")))


def main() -> int:
    """Read a request on stdin, print the answer on stdout."""
    quiet_libraries()
    try:
        found = answer(GenerateRequest.model_validate(json.load(sys.stdin)))
    except InputError as error:
        print_problems(error)
        return 2
    sys.stdout.write(found.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())

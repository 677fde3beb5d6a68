"""Examples → tokens, and which of them are learned. Needs the tokenizers library, and no torch."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from estimator.problems import InputError, Problem
from trainer.chat_template import PLAIN_TEMPLATE, Rendered, opening, render, whole
from trainer.example_formats import Example

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

IGNORED = -100
"""The label of a token that the loss leaves out (PyTorch's cross entropy ignores it)."""


class Tokens(NamedTuple):
    """An example's tokens; the label of one that is not learned is ``IGNORED``."""

    input_ids: list[int]
    labels: list[int]

    def cut(self, num_tokens: int) -> Tokens:
        """Return the first so many of them."""
        return Tokens(self.input_ids[:num_tokens], self.labels[:num_tokens])

    @property
    def is_learned(self) -> bool:
        """Whether anything is: the first token of a row follows nothing, so it never is."""
        return any(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True, slots=True)
class Encoder:
    """What of a tokenizer turns text into tokens.

    Attributes:
        backend: Of the tokenizers library; it knows where in a text each token comes from.
        special_tokens: ``bos_token``, ``eos_token`` and the like, as chat templates name them.
        eos_token_id: Ends an example; None where the tokenizer has none.
        chat_template: The tokenizer's own, or None.
    """

    backend: Tokenizer
    special_tokens: dict[str, str]
    eos_token_id: int | None
    chat_template: str | None

    @property
    def template(self) -> str:
        """The chat template in use."""
        return self.chat_template or PLAIN_TEMPLATE

    @property
    def template_name(self) -> str:
        """Which chat template is in use, in words."""
        if self.chat_template:
            return "the tokenizer's chat template"
        return "a plain template (role, text, end of sequence): the tokenizer has none"

    def adds_special(self, *, is_chat: bool) -> bool:
        """Whether the tokenizer writes a sequence's beginning: a chat template does so itself."""
        return not (is_chat and self.chat_template)

    def count(self, texts: list[str], *, is_chat: bool) -> list[int]:
        """Return how many tokens each text has, the end of sequence included."""
        adds = self.adds_special(is_chat=is_chat)
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=adds)
        eos = self.special_tokens["eos_token"]
        if self.eos_token_id is None or (adds and self._ends_texts()):
            return [len(encoding) for encoding in encodings]
        pairs = zip(encodings, texts, strict=True)
        return [len(one) + (not text.rstrip().endswith(eos)) for one, text in pairs]

    def _ends_texts(self) -> bool:
        """Whether the tokenizer itself writes the end of sequence."""
        return self.backend.encode("a").ids[-1:] == [self.eos_token_id]

    def fingerprint(self) -> str:
        """Return a hash that changes with anything that changes tokens."""
        parts = [self.backend.to_str(), self.template, json.dumps(self.special_tokens)]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()


def encoder_of(tokenizer: Any) -> Encoder:
    """Return the encoder in a Hugging Face tokenizer.

    Raises:
        InputError: It is not one of the tokenizers library (a "fast" one), which alone says where
            in the text a token comes from.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        what = f"its tokenizer ({type(tokenizer).__name__}) does not say where tokens come from"
        raise InputError(Problem("model", what, "a fast tokenizer", "use one with tokenizer.json"))
    special = {
        name: str(token)
        for name, token in tokenizer.special_tokens_map.items()
        if isinstance(token, str)
    }
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return _encoder(backend, special, template)


def read_encoder(folder: Path) -> Encoder | None:
    """Return the encoder in a model's folder, or None where there is no tokenizer.json.

    Raises:
        InputError: The tokenizer's files cannot be read.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        backend = Tokenizer.from_file(str(path))
        settings_path = folder / "tokenizer_config.json"
        settings = json.loads(settings_path.read_bytes()) if settings_path.is_file() else {}
        written = folder / "chat_template.jinja"
        template = written.read_text("utf-8") if written.is_file() else _named_template(settings)
    # The tokenizers library raises plain Exception for a file that it cannot read.
    except Exception as error:
        what = f"is no tokenizer that can be read ({' '.join(str(error).split())[:200]})"
        raise InputError(Problem(str(folder), what, fix="save the tokenizer again")) from error
    special = {
        name: text
        for name, token in settings.items()
        if name.endswith("_token")
        and isinstance(text := token.get("content") if isinstance(token, dict) else token, str)
    }
    return _encoder(backend, special, template)


def _named_template(settings: dict[str, Any]) -> str | None:
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template}
        return named.get("default")
    return template if isinstance(template, str) else None


def _encoder(backend: Any, special: dict[str, str], template: str | None) -> Encoder:
    # Some tokenizer.json files cut and pad by themselves; what is cut here is counted.
    backend.no_truncation()
    backend.no_padding()
    eos = special.get("eos_token")
    eos_id = backend.token_to_id(eos) if eos else None
    return Encoder(backend, {"bos_token": "", "eos_token": "", **special}, eos_id, template)


def encode(example: Example, encoder: Encoder) -> Tokens:
    """Return an example's tokens, whole.

    Learned are a completion and its end of sequence, and in a conversation every assistant's
    turn with its end-of-turn token. A token that lies partly in such a text is learned.

    Raises:
        TemplateProblem: The chat template refuses the conversation, or cannot be split.
    """
    return encode_all([example], encoder)[0]


def encode_all(examples: Sequence[Example], encoder: Encoder) -> list[Tokens]:
    """Return the tokens of several examples of one format; all cores of the processor help.

    Raises:
        TemplateProblem: As :func:`encode` does.
    """
    texts = [rendered(example, encoder) for example in examples]
    adds_special = encoder.adds_special(is_chat=bool(examples and examples[0].turns))
    encodings = encoder.backend.encode_batch(
        [text.text for text in texts], add_special_tokens=adds_special
    )
    return [
        _labelled(text, encoding, encoder.eos_token_id)
        for text, encoding in zip(texts, encodings, strict=True)
    ]


def text_of(example: Example, encoder: Encoder) -> str:
    """Return an example's text, as the model sees it.

    Raises:
        TemplateProblem: The chat template refuses the conversation.
    """
    if example.turns:
        return whole(example.turns, encoder.template, encoder.special_tokens)
    return example.prompt + example.completion


def rendered(example: Example, encoder: Encoder) -> Rendered:
    """Return an example's text and which ranges of it are learned.

    Raises:
        TemplateProblem: As :func:`encode` does.
    """
    if example.turns:
        return render(example.turns, encoder.template, encoder.special_tokens)
    text = example.prompt + example.completion
    return Rendered(text, [(len(example.prompt), len(text))])


def prompt_text(example: Example, encoder: Encoder) -> str:
    """Return what a model is given to answer an example: all before its last answer.

    Raises:
        TemplateProblem: The chat template refuses the conversation.
    """
    if example.turns:
        return opening(example.turns[:-1], encoder.template, encoder.special_tokens)
    return example.prompt


def _labelled(text: Rendered, encoding: Encoding, eos_token_id: int | None) -> Tokens:
    ids: list[int] = encoding.ids
    offsets: list[tuple[int, int]] = encoding.offsets
    labels = [IGNORED] * len(ids)
    written = [index for index, (start, end) in enumerate(offsets) if end > start]
    starts, ends = ([offsets[index][side] for index in written] for side in (0, 1))
    for start, end in text.learned:
        for index in written[bisect_right(ends, start) : bisect_left(starts, end)]:
            labels[index] = ids[index]
    if eos_token_id is None or _is_ended(text.text, encoding, eos_token_id):
        return Tokens(ids, labels)
    if ids and ids[-1] == eos_token_id and offsets[-1] == (0, 0):  # the tokenizer's own addition
        return Tokens(ids, [*labels[:-1], eos_token_id])
    return Tokens([*ids, eos_token_id], [*labels, eos_token_id])


def _is_ended(text: str, encoding: Encoding, eos_token_id: int) -> bool:
    """Whether a text's own last word is the end of sequence."""
    for token_id, (start, end) in zip(
        reversed(encoding.ids), reversed(encoding.offsets), strict=True
    ):
        if text[start:end].strip():
            return token_id == eos_token_id
    return False

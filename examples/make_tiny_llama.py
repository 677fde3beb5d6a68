"""Makes examples/tiny-llama: a Llama of under a million parameters, trained for real.

It has seen every other line of questions.jsonl, so that a fine-tune on all of it has something
to build on and something to learn. Run it again only to change the model:
python examples/make_tiny_llama.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
FOLDER = HERE / "tiny-llama"
NUM_STEPS = 600


def make_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer of 768 tokens, trained on ``texts``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=768, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def main() -> None:
    """Train the tokenizer and the model, and save both."""
    torch.manual_seed(0)
    rows = [json.loads(line) for line in (HERE / "questions.jsonl").read_text().splitlines()]
    texts = [f"{row['prompt']}\n{row['completion']}</s>" for row in rows]
    tokenizer = make_tokenizer(texts)
    seen = tokenizer("".join(texts[::2]))["input_ids"]
    config = LlamaConfig(
        vocab_size=768,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    tokens = torch.tensor(seen)
    for _ in range(NUM_STEPS):
        starts = torch.randint(len(seen) - 128, (8,)).tolist()
        batch = torch.stack([tokens[start : start + 128] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(FOLDER)
    tokenizer.save_pretrained(FOLDER)


if __name__ == "__main__":
    main()

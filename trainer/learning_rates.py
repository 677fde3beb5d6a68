"""The learning rate of each method where the plan names none."""

from __future__ import annotations

LEARNING_RATES: dict[str, float] = {
    "full": 2e-5,  # Stanford Alpaca's recipe for a 7B model
    "last_layers": 2e-5,
    "bitfit": 1e-3,  # the upper end of what BitFit (arXiv:2106.10199) searched
    "lora": 2e-4,  # QLoRA (arXiv:2305.14314), table 9, for 7B and 13B
    "qlora": 2e-4,
    "ia3": 3e-3,  # T-Few (arXiv:2205.05638)
    "prompt_tuning": 3e-2,  # peft's own examples, as for prefix tuning
    "prefix_tuning": 1e-2,
}
"""The highest learning rate of the schedule."""

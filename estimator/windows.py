"""What each decoder layer's attention sees: every token, a sliding window, or something else."""

from __future__ import annotations

from typing import Any

_EVERY_NTH_IS_FULL = {"gemma2": 2, "gemma3_text": 6, "olmo3": 4, "gpt_oss": 2, "cohere2": 4}
_ALL_SLIDE = ("mistral", "mixtral", "phi3", "starcoder2")

_FULL, _SLIDES = "full_attention", "sliding_attention"


def attention_windows(config: dict[str, Any], num_layers: int) -> tuple[int | None, ...] | None:
    """Return the sliding window of each layer in tokens, None for a layer that sees every token.

    Source: the ``layer_types`` that transformers 5.23 writes into its configurations, and the
    defaults of the families whose config.json leaves them out.

    Returns:
        One value a layer; None where a layer is of another kind (linear attention, a state-space
        model), whose cost this project does not describe.
    """
    window = config.get("sliding_window")
    types = config.get("layer_types") or _usual_types(config, num_layers)
    if len(types) != num_layers or not set(types) <= {_FULL, _SLIDES}:
        return None
    return tuple(window if kind == _SLIDES else None for kind in types)


def _usual_types(config: dict[str, Any], num_layers: int) -> list[str]:
    family = config.get("model_type")
    window = config.get("sliding_window")
    if not isinstance(window, int) or config.get("use_sliding_window") is False:
        return [_FULL] * num_layers
    if family in _ALL_SLIDE:
        return [_SLIDES] * num_layers
    if family in ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"):
        first = config.get("max_window_layers", num_layers)
        return [_SLIDES if index >= first else _FULL for index in range(num_layers)]
    nth = config.get("sliding_window_pattern") or _EVERY_NTH_IS_FULL.get(str(family))
    if not isinstance(nth, int):
        return [_FULL] * num_layers
    return [_FULL if (index + 1) % nth == 0 else _SLIDES for index in range(num_layers)]

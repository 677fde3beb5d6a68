"""The line items of running a strategy: its first version, tokens, retrieval, serving."""

from __future__ import annotations

from collections.abc import Mapping

from estimator.cost import (
    HOURS_PER_MONTH,
    MILLION,
    Number,
    Server,
    cache_hits,
    cached_tokens_usd,
    first_token_seconds,
    gpus_needed,
)
from estimator.cost_ledger import Line

Known = Mapping[str, Number]
Lines = tuple[Line, ...]
_CACHED = (
    "x (hits x read price + misses x write price) / 1M, hits = the smaller of the assumed share "
    "and 1 - exp(-requests a second x lifetime of the cache); x input price / 1M where that is "
    "less, or where they are fewer than can be cached"
)


def work(kind: str) -> Lines:
    """Return what people do before a first version: making it, and test items for it."""
    hours = f"work_{kind}"
    return (
        Line(
            "work",
            "People's work on a first version",
            "one_time",
            "hours of work x price of an hour",
            lambda v: v[hours] * v["engineer_hour"],
        ),
        Line(
            "evaluation_set",
            "Test items",
            "one_time",
            "test items x price of a label",
            lambda v: v["evaluation_items"] * v["label"],
        ),
        Line(
            "work_days",
            "People's work",
            "days",
            "hours of work / hours a day",
            lambda v: v[hours] / v["hours_per_day"],
        ),
    )


def api_tokens(*extras: str) -> Lines:
    """Return the tokens of an API model, part of the prompt cached.

    Args:
        extras: Inputs whose tokens stand in every prompt, and are cached with it.
    """
    return (
        Line(
            "fresh_input",
            "Prompt, the part that changes",
            "per_request",
            "prompt x (1 - cacheable share) x input price / 1M",
            lambda v: (
                v["input_tokens"] * (1 - v["cacheable_share"]) * v["api_input_mtok"] / MILLION
            ),
        ),
        Line(
            "cached_input",
            "Prompt, the part that stays",
            "per_request",
            f"({' + '.join(['prompt x cacheable share', *_words(extras)])}) {_CACHED}",
            lambda v: _cached(
                v, sum((v[one] for one in extras), v["input_tokens"] * v["cacheable_share"]), ""
            ),
        ),
        Line(
            "output",
            "Answers",
            "per_request",
            "answer x output price / 1M",
            lambda v: v["output_tokens"] * v["api_output_mtok"] / MILLION,
        ),
    )


def _cached(v: Known, tokens: Number, prefix: str) -> Number:
    return cached_tokens_usd(
        tokens,
        cache_hits(v["cache_hit_share"], v["requests_per_month"], v["cache_lifetime_seconds"]),
        v[f"{prefix}api_cached_read_mtok"],
        v[f"{prefix}api_cache_write_mtok"],
        v[f"{prefix}api_input_mtok"],
        v["least_cached_tokens"],
    )


def _words(extras: tuple[str, ...]) -> list[str]:
    return [one.replace("_", " ") for one in extras]


def long_context_tokens() -> Lines:
    """Return the tokens of an API model that is given all documents with every request."""
    return (
        Line(
            "documents",
            "All documents in the prompt, cached",
            "per_request",
            f"documents {_CACHED}",
            lambda v: _cached(v, v["whole_corpus"], "long_"),
        ),
        Line(
            "fresh_input",
            "The rest of the prompt",
            "per_request",
            "prompt x input price / 1M",
            lambda v: v["input_tokens"] * v["long_api_input_mtok"] / MILLION,
        ),
        Line(
            "output",
            "Answers",
            "per_request",
            "answer x output price / 1M",
            lambda v: v["output_tokens"] * v["long_api_output_mtok"] / MILLION,
        ),
    )


def retrieval() -> Lines:
    """Return what it takes to find passages: embed, store, look up, rank again."""
    return (
        Line(
            "ingest",
            "Embedding the documents",
            "one_time",
            "documents x embedding price / 1M",
            lambda v: v["corpus_tokens"] * v["embedding_mtok"] / MILLION,
        ),
        Line(
            "reingest",
            "Embedding what changed",
            "monthly",
            "documents x share changed each month x embedding price / 1M",
            lambda v: (
                v["corpus_tokens"] * v["corpus_change_per_month"] * v["embedding_mtok"] / MILLION
            ),
        ),
        Line(
            "vector_store",
            "Vector store",
            "monthly",
            "price of a month",
            lambda v: v["vector_store_month"],
        ),
        Line(
            "query_embedding",
            "Embedding the request",
            "per_request",
            "prompt x embedding price / 1M",
            lambda v: v["input_tokens"] * v["embedding_mtok"] / MILLION,
        ),
        Line(
            "rerank",
            "Reranking",
            "per_request",
            "price of a request",
            lambda v: v["rerank_request"],
        ),
    )


def retrieved_api_tokens() -> Lines:
    """Return the longer prompts of an API model: passages change, so nothing of them is cached."""
    return (
        Line(
            "retrieved_input",
            "Retrieved text in the prompt",
            "per_request",
            "retrieved tokens x input price / 1M",
            lambda v: v["retrieved_tokens"] * v["api_input_mtok"] / MILLION,
        ),
    )


def server(v: Known, prefix: str, weight_bytes: Number) -> Server:
    """Return the model on its GPU that inputs of that prefix describe."""
    gpu = "hosted" if prefix == "hosted" else "serving"
    return Server(
        active_parameters=v["serving_active_parameters"],
        weight_bytes=weight_bytes,
        kv_bytes_per_token=v["serving_kv_bytes"],
        gpu_memory_bytes=v[f"{gpu}_gpu_memory"],
        bandwidth=v[f"{gpu}_gpu_bandwidth"],
        peak_flops=v[f"{gpu}_gpu_flops"],
        memory_share=v["memory_share"],
        bandwidth_share=v["bandwidth_share"],
        compute_share=v["compute_share"],
        max_sequences=v["max_sequences"],
    )


def own_serving(prompt: str, *extras: str, in_4_bits: bool = False, hosted: bool = False) -> Lines:
    """Return GPUs that are always on, as many as the requests need.

    Args:
        prompt: The input that holds the prompt's tokens.
        extras: Inputs whose tokens stand in every prompt as well.
        in_4_bits: Whether the weights are stored in 4 bits.
        hosted: Whether the GPU is the fine-tuning provider's.
    """
    price = "hosted_serving_gpu_hour" if hosted else "serving_gpu_hour"
    prefix = "hosted" if hosted else "serving"

    def copy(v: Known) -> Server:
        stored = v["four_bit_bytes"] if in_4_bits else 2
        return server(v, prefix, v["serving_parameters"] * stored)

    def tokens(v: Known) -> Number:
        return sum((v[one] for one in extras), v[prompt])

    def amount(v: Known) -> Number:
        requests, answer = v["requests_per_month"], v["output_tokens"]
        gpus = gpus_needed(copy(v), requests, tokens(v), answer, v["utilisation"])
        return gpus * v[price] * HOURS_PER_MONTH

    return (
        Line(
            "serving",
            f"GPUs always on{', weights in 4 bits' if in_4_bits else ''}",
            "monthly",
            "GPUs for the load x price of an hour x 730 h; GPUs = GPUs of one copy x "
            "round up(requests a month / (requests a second of a copy x utilisation x 2,628,000 "
            "s)), at least one copy",
            amount,
        ),
        Line(
            "first_token",
            "First token, on an idle GPU",
            "seconds",
            "2 x parameters x prompt / (compute share x peak) + what starting takes",
            lambda v: first_token_seconds(copy(v), tokens(v), v["first_token_overhead"]),
        ),
    )


def hosted_tokens(prompt: str) -> Lines:
    """Return the tokens of a tuned model that its provider serves."""
    return (
        Line(
            "input",
            "Prompt",
            "per_request",
            "prompt x the provider's input price / 1M",
            lambda v: v[prompt] * v["hosted_input_mtok"] / MILLION,
        ),
        Line(
            "output",
            "Answers",
            "per_request",
            "answer x the provider's output price / 1M",
            lambda v: v["output_tokens"] * v["hosted_output_mtok"] / MILLION,
        ),
    )

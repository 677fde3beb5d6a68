"""The formulas money is reckoned with: training time, what a GPU can serve, caching, break-even.

They take Decimals, floats or numpy arrays alike: one formula serves the exact amount, and
thousands of draws at once. Every quantity comes in as an argument, so nothing is fixed here but
the arithmetic itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Any

Number = Any
"""A Decimal, a float or a numpy array; Decimals and floats do not mix."""

HOURS_PER_MONTH = 730
SECONDS_PER_HOUR = 3600
MILLION = 10**6
DAYS_PER_MONTH = 30


def round_up(value: Number) -> Number:
    """Return the next whole number."""
    if isinstance(value, Decimal):
        return value.to_integral_value(ROUND_CEILING)
    if isinstance(value, float | int):
        return ceil(value)
    import numpy as np

    return np.ceil(value)


def round_down(value: Number) -> Number:
    """Return the whole number before it."""
    if isinstance(value, Decimal):
        return value.to_integral_value(ROUND_FLOOR)
    if isinstance(value, float | int):
        return floor(value)
    import numpy as np

    return np.floor(value)


def larger(one: Number, other: Number) -> Number:
    """Return the larger of two numbers, element by element."""
    if _is_scalar(one) and _is_scalar(other):
        return max(one, other)
    import numpy as np

    return np.maximum(one, other)


def _is_scalar(value: Number) -> bool:
    return isinstance(value, Decimal | float | int)


def smaller(one: Number, other: Number) -> Number:
    """Return the smaller of two numbers, element by element."""
    return -larger(-one, -other)


def training_hours(
    parameters: Number,
    tokens: Number,
    flops_per_parameter: int,
    peak_flops: Number,
    mfu: Number,
    attention_flops: Number = 0,
) -> Number:
    """Return the GPU hours of training by the textbook.

    tokens x (FLOPs per parameter x parameters + 3 x attention) / (peak x MFU). FLOPs per parameter
    and token: 6 for all weights, 4 for adapters, 2 more where activations are recomputed (Kaplan
    et al. 2020, 2.1; Schulman et al. 2025, "LoRA Without Regret"). Known error: that of ``mfu``,
    which published runs put at 12 to 62 %.

    Args:
        parameters: Weights that multiply a token.
        tokens: Seen in training, every epoch counted.
        flops_per_parameter: For each parameter and token.
        peak_flops: Dense, per second.
        mfu: Model FLOPs utilisation, the share of the peak that is reached.
        attention_flops: Of attention's own products in forward, for each token: 2 x layers x
            sequence length x width; 0 leaves out a few per cent at 2,000 tokens.
    """
    flops = tokens * (parameters * flops_per_parameter + 3 * attention_flops)
    return flops / (peak_flops * mfu * SECONDS_PER_HOUR)


@dataclass(frozen=True, slots=True)
class Server:
    """A model on GPUs, as far as what it can serve depends on it.

    Attributes:
        active_parameters: Weights that multiply one token.
        weight_bytes: All weights as they are stored.
        kv_bytes_per_token: Keys and values of one token in every layer.
        gpu_memory_bytes: Of one GPU.
        bandwidth: Of one GPU, bytes per second.
        peak_flops: Of one GPU, dense, per second.
        memory_share: What of the memory weights and cache may take.
        bandwidth_share: What of the bandwidth decoding reaches.
        compute_share: What of the peak matrix products reach.
        max_sequences: How many requests are decoded together at most.
    """

    active_parameters: Number
    weight_bytes: Number
    kv_bytes_per_token: Number
    gpu_memory_bytes: Number
    bandwidth: Number
    peak_flops: Number
    memory_share: Number
    bandwidth_share: Number
    compute_share: Number
    max_sequences: Number


def gpus_per_copy(server: Server) -> Number:
    """Return how many GPUs one copy of the model takes: weights in three quarters of the memory.

    The last quarter is left to keys and values.
    """
    usable = server.gpu_memory_bytes * server.memory_share * 3 / 4
    return larger(round_up(server.weight_bytes / usable), server.weight_bytes * 0 + 1)


def requests_per_second(server: Server, input_tokens: Number, output_tokens: Number) -> Number:
    """Return how many requests one copy of the model can answer in a second.

    One request costs its prefill, 2 x parameters x input tokens / (compute share x peak), and its
    share of decoding: output tokens x step / B, where B requests are decoded together and
    step = max((weights + B x context x bytes per token) / (bandwidth share x bandwidth),
    2 x parameters x B / (compute share x peak)). B is what the memory left by the weights holds of
    whole requests, at most ``max_sequences``; the context is the prompt and half of the answer.

    Source: a roofline of continuous batching; shares measured with vLLM on an H100. Assumes that
    several GPUs work as one and that prefill and decoding take turns. Known error: against the
    throughput that silybench measured on an H100 (Qwen3-8B, bf16, 2026-09) +3 to +20 % for four
    workloads of up to 4,096 tokens, +79 % for prompts of 8,192, where a limit on latency keeps
    fewer requests in flight than fit.
    """
    gpus = gpus_per_copy(server)
    compute = gpus * server.peak_flops * server.compute_share
    bandwidth = gpus * server.bandwidth * server.bandwidth_share
    whole = (input_tokens + output_tokens) * server.kv_bytes_per_token
    room = gpus * server.gpu_memory_bytes * server.memory_share - server.weight_bytes
    one = whole * 0 + 1
    together = larger(smaller(round_down(room / larger(whole, one)), server.max_sequences), one)
    context = input_tokens + output_tokens / 2
    from_memory = server.weight_bytes + together * context * server.kv_bytes_per_token
    step = larger(from_memory / bandwidth, 2 * server.active_parameters * together / compute)
    prefill = 2 * server.active_parameters * input_tokens / compute
    seconds = prefill + output_tokens * step / together
    tiny = seconds * 0 + 1 / (seconds * 0 + 10**9)  # no request is answered in no time
    return 1 / larger(seconds, tiny)


def gpus_needed(
    server: Server,
    requests_per_month: Number,
    input_tokens: Number,
    output_tokens: Number,
    utilisation: Number,
) -> Number:
    """Return how many GPUs must be on for a month's requests: one copy at least.

    Args:
        server: The model and its GPU.
        requests_per_month: Spread evenly; ``utilisation`` leaves room for peaks.
        input_tokens: Per request.
        output_tokens: Per request.
        utilisation: The largest share of what a copy can serve that an average month may take.
    """
    speed = requests_per_second(server, input_tokens, output_tokens)
    capacity = speed * utilisation * (HOURS_PER_MONTH * SECONDS_PER_HOUR)
    copies = larger(round_up(requests_per_month / capacity), capacity * 0 + 1)
    return copies * gpus_per_copy(server)


def first_token_seconds(server: Server, input_tokens: Number, overhead_seconds: Number) -> Number:
    """Return the time to the first token on an idle GPU: prefill, and about 10 ms around it."""
    compute = gpus_per_copy(server) * server.peak_flops * server.compute_share
    return 2 * server.active_parameters * input_tokens / compute + overhead_seconds


def cache_hits(assumed: Number, requests_per_month: Number, lifetime_seconds: Number) -> Number:
    """Return the share of requests that find their prompt in the provider's cache.

    The smaller of what is assumed and 1 - exp(-rate x lifetime): a cache is kept for a time after
    its last use, and where requests come at random over the month (a Poisson process) that is the
    share of gaps between two of them that are shorter. Known error: requests that come in bursts
    find it more often.

    Args:
        assumed: The share where requests come all the time.
        requests_per_month: Of all prompts that begin alike.
        lifetime_seconds: After its last use.
    """
    rate = requests_per_month / (HOURS_PER_MONTH * SECONDS_PER_HOUR)
    return smaller(assumed, 1 - _exp(-rate * lifetime_seconds))


def _exp(value: Number) -> Number:
    if isinstance(value, Decimal):
        return value.exp().quantize(Decimal("1e-9"))  # of a share, so amounts stay readable
    import numpy as np

    return np.exp(value)


def cached_tokens_usd(
    tokens: Number,
    hit_share: Number,
    read_mtok: Number,
    write_mtok: Number,
    plain_mtok: Number,
    least_tokens: Number,
) -> Number:
    """Return what the part of a prompt that stays the same costs on average.

    Hits are read from the provider's cache and misses written to it. Where that costs more than
    plain tokens, or where they are too few to be cached, they are paid as plain ones.

    Args:
        tokens: At the start of every prompt.
        hit_share: The share of requests that find them in the cache.
        read_mtok: For a million tokens read; likewise the next two.
        write_mtok: Written.
        plain_mtok: Neither.
        least_tokens: The fewest that the provider caches.
    """
    cached = smaller(hit_share * read_mtok + (1 - hit_share) * write_mtok, plain_mtok)
    enough = _is_at_least(tokens, least_tokens)
    return tokens * (enough * cached + (1 - enough) * plain_mtok) / MILLION


def _is_at_least(value: Number, least: Number) -> Number:
    """Return 1 where a value is large enough, else 0, element by element."""
    if isinstance(value, Decimal):
        return Decimal(1 if value >= least else 0)
    import numpy as np

    return np.asarray(value >= least, dtype=float)


def uses_until_cache_pays(read: Decimal, write: Decimal) -> int:
    """Return with which use a cached prompt costs less than an uncached one.

    The first use writes, the others read: write + (n - 1) x read < n, in units of the plain
    price.

    Args:
        read: Price of a cached token as a share of a plain one; below 1.
        write: Price of writing a token into the cache, likewise.
    """
    at_par = Fraction(write - read) / Fraction(1 - read)
    return floor(at_par) + 1


def break_even_accuracy(
    success_usd: Decimal, failure_usd: Decimal, request_usd: Decimal = Decimal(0)
) -> Decimal:
    """Return the share of right answers from which a request pays; above 1 it never does.

    accuracy x success = (1 - accuracy) x failure + request, so (failure + request) /
    (failure + success). Source: OpenAI, Optimizing LLM accuracy (there without the request).

    Args:
        success_usd: What a right answer is worth.
        failure_usd: What a wrong one costs.
        request_usd: What any answer costs.
    """
    return (failure_usd + request_usd) / (failure_usd + success_usd)

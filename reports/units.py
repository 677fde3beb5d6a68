"""Numbers as people read them: bytes in GiB, counts in powers of 1000, money, time."""

from __future__ import annotations

from decimal import Decimal

GIB = 2**30
MIB = 2**20
UNKNOWN = "not known"

_COUNTS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


def gib(size_bytes: int | None) -> str:
    """Return a size in GiB (``12.3 GiB``), below 1 GiB in MiB (``256.0 MiB``)."""
    if size_bytes is None:
        return UNKNOWN
    if round(abs(size_bytes) / MIB, 1) < 1024:
        return f"{size_bytes / MIB:,.1f} MiB" if size_bytes else "0"
    return f"{size_bytes / GIB:,.1f} GiB"


def size_range(low_bytes: int, high_bytes: int) -> str:
    """Return two sizes in one unit (``110.9 to 115.4 GiB``), or one where both read the same."""
    low, high = gib(low_bytes), gib(high_bytes)
    if low == high:
        return low
    same_unit = low.split()[-1] == high.split()[-1]
    return f"{low.split()[0] if same_unit else low} to {high}"


def gb(size_bytes: int | None) -> str:
    """Return a size in GB of 10^9 bytes (``107.8 GB``, ``112 GB``), as papers and vendors count."""
    if size_bytes is None:
        return UNKNOWN
    return f"{size_bytes / 10**9:,.1f}".removesuffix(".0") + " GB"


def count(number: int | None) -> str:
    """Return a count in powers of 1000 to three digits (``6.74 B``, ``20.0 M``, ``512``)."""
    if number is None:
        return UNKNOWN
    for index, (scale, letter) in enumerate(_COUNTS):
        if abs(number) >= scale:
            text = _three_digits(number / scale)
            if text == "1000" and index:  # 999.9 k rounds up to the next unit
                return f"1.00 {_COUNTS[index - 1][1]}"
            return f"{text} {letter}"
    return str(number)


def num_of(num: int, one: str) -> str:
    """Return how many there are, in words (``1 example``, ``1,200 examples``)."""
    return f"{num:,} {one}" if num == 1 else f"{num:,} {one}s"


def _three_digits(value: float) -> str:
    whole_digits = len(str(int(abs(value))))
    return f"{value:.{max(0, 3 - whole_digits)}f}"


def usd(amount: Decimal | float | None) -> str:
    """Return an amount of US dollars (``$1,234``; below 100 with cents, below 1 cent in full)."""
    if amount is None:
        return UNKNOWN
    value = Decimal(str(amount))
    sign, value = ("-" if value < 0 else ""), abs(value)
    if value and value < Decimal("0.01"):
        return f"{sign}${value:.2g}"
    return f"{sign}${value:,.2f}" if value < 100 else f"{sign}${value:,.0f}"


def duration(seconds: float | None) -> str:
    """Return a time as two units at most (``0.4 ms``, ``3.2 s``, ``4 min 5 s``, ``2 d 3 h``)."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def percent(value: float | None, reference: float | None) -> str:
    """Return how far ``value`` is from ``reference`` (``+0.02 %``), or "not known"."""
    if value is None or not reference:
        return UNKNOWN
    return f"{(value - reference) / reference:+.2%}".replace("%", " %")


def number(value: float | None, digits: int = 3) -> str:
    """Return a plain number with this many digits after the point (``2.278``, ``10,218``)."""
    return UNKNOWN if value is None else f"{value:,.{digits}f}"

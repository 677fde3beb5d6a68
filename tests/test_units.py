from decimal import Decimal

import pytest

from reports import units


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [
        (None, "not known"),
        (0, "0"),
        (1, "0.0 MiB"),
        (39_000_000, "37.2 MiB"),
        (2**28, "256.0 MiB"),
        (2**30 - 1, "1.0 GiB"),
        (24 * 2**30, "24.0 GiB"),
        (-(2**31), "-2.0 GiB"),
        (1500 * 2**30, "1,500.0 GiB"),
    ],
)
def test_memory_is_shown_in_gib(size_bytes: int | None, shown: str) -> None:
    assert units.gib(size_bytes) == shown


def test_the_textbook_unit_is_powers_of_1000() -> None:
    assert units.gb(16 * 6_738_415_616) == "107.8 GB"
    assert units.gb(16 * 7 * 10**9) == "112 GB"


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (None, "not known"),
        (0, "0"),
        (512, "512"),
        (1000, "1.00 k"),
        (999_999, "1.00 M"),
        (19_988_480, "20.0 M"),
        (6_738_415_616, "6.74 B"),
        (671_026_419_200, "671 B"),
        (1_000_000_000_000, "1.00 T"),
    ],
)
def test_counts_have_three_digits(number: int | None, shown: str) -> None:
    assert units.count(number) == shown


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (None, "not known"),
        (0, "$0.00"),
        (Decimal("0.00042"), "$0.00042"),
        (Decimal("12.345"), "$12.34"),
        (1234.5, "$1,234"),
        (-3, "-$3.00"),
    ],
)
def test_money(amount: Decimal | float | None, shown: str) -> None:
    assert units.usd(amount) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "not known"),
        (0.0004, "0.4 ms"),
        (3.21, "3.2 s"),
        (59.96, "1 min 0 s"),
        (245, "4 min 5 s"),
        (7260, "2 h 1 min"),
        (183_600, "2 d 3 h"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float | None, shown: str) -> None:
    assert units.duration(seconds) == shown


def test_a_difference_needs_something_to_differ_from() -> None:
    assert units.percent(1002, 1000) == "+0.20 %"
    assert units.percent(None, 1000) == "not known"
    assert units.percent(5, 0) == "not known"

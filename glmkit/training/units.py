"""Bytes, shares and seconds as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """Tell people how many bytes that is."""
    return f"{count / 2**30:.2f} GiB" if count > 2**29 else f"{count / 2**20:.1f} MiB"


def percent(share: float) -> str:
    """Tell people which share of the whole that is."""
    return f"{100 * share:.3g} %" if share >= 1e-5 else "less than 0.001 %"


def duration(seconds: float) -> str:
    """Tell people how long that is."""
    for unit, size, decimals in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.{decimals}f} {unit}"
    return f"{seconds:.0f} s"

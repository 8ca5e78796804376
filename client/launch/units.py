"""Amounts, durations and shares as people write them, with their unit, and back."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Any

WEI_OF = {"wei": 1, "gwei": 10**9, "eth": 10**18}
SECONDS_OF = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([A-Za-z%]+)\s*")

AMOUNT = 'an amount with its unit, like "0.05 ETH" or "30 gwei"'
DURATION = 'a duration like "90 s", "30 min", "2 h" or "7 d", or "100 blocks"'
SHARE = 'a share like "25 %"'


def parse_amount(value: Any) -> int:
    """Wei. Raises ValueError."""
    number, unit = _split(value)
    wei = number * WEI_OF[unit.lower()] if unit.lower() in WEI_OF else Decimal("0.5")
    if wei != int(wei):
        raise ValueError(f"not {AMOUNT}")
    return int(wei)


def parse_blocks(value: Any, block_seconds: float) -> int:
    """Blocks that last at least as long. Raises ValueError."""
    number, unit = _split(value)
    if unit in ("block", "blocks"):
        blocks = number
    elif unit in SECONDS_OF:
        blocks = (number * SECONDS_OF[unit] / Decimal(str(block_seconds))).to_integral_value(ROUND_CEILING)
    else:
        raise ValueError(f"not {DURATION}")
    if blocks != int(blocks):
        raise ValueError("not a whole number of blocks")
    return int(blocks)


def parse_share(value: Any) -> int:
    """Hundredths of a percent. Raises ValueError."""
    number, unit = _split(value)
    bps = number * 100
    if unit != "%" or bps != int(bps) or bps > 10_000:
        raise ValueError(f"not {SHARE}")
    return int(bps)


def _split(value: Any) -> tuple[Decimal, str]:
    matched = _NUMBER_AND_UNIT.fullmatch(value) if isinstance(value, str) else None
    if matched is None:
        raise ValueError("not a number with its unit")
    return Decimal(matched[1].replace("_", "")), matched[2]


def format_amount(wei: int) -> str:
    """In ETH, exact."""
    return f"{format_decimal(Decimal(wei) / 10**18)} ETH"


def format_decimal(number: Decimal) -> str:
    text = f"{number:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_blocks(blocks: int, block_seconds: float) -> str:
    """`150 blocks (30 min)`."""
    seconds = blocks * block_seconds
    unit = next(unit for unit in ("d", "h", "min", "s") if seconds >= SECONDS_OF[unit] or unit == "s")
    return f"{blocks:,} blocks ({seconds / SECONDS_OF[unit]:.3g} {unit})"

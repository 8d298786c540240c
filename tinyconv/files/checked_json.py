"""JSON from an untrusted file: bounded in size and depth, without duplicate keys, and with finite numbers only."""

import json
import math
import re
from typing import Any

MOST_BYTES = 1 << 20
MOST_PARTS = 200_000  # lists and objects: an empty one is two bytes in a file, and sixty in memory
DEEPEST = 40
NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")

# A string, or what is left of the text where it does not end: so that no text is searched twice.
STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)


def loads(data: bytes, where: str, most_bytes: int = MOST_BYTES) -> Any:
    """Parse JSON, or raise a ValueError that begins with ``where``."""
    check_size(data, where, most_bytes)
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None


def check_size(data: bytes, where: str, most_bytes: int) -> None:
    """Refuse a text that is too large, has too many parts, or is nested too deeply."""
    if len(data) > most_bytes:
        raise ValueError(f"{where} is too large. Expected at most {most_bytes:,} bytes. Received: {len(data):,}.")
    brackets = STRING.sub(b"", data).translate(None, NO_BRACKETS)
    if len(brackets) > 2 * MOST_PARTS:
        raise ValueError(
            f"{where} is too large. Expected at most {MOST_PARTS:,} lists and objects. "
            f"Received: {len(brackets) // 2:,}."
            f"Received: {len(brackets) // 2:,}."
        )
    depth = deepest = 0
    for byte in brackets:
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise ValueError(f"{where} is nested too deeply. Expected at most {DEEPEST} levels. Received: {deepest}.")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a finite number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)

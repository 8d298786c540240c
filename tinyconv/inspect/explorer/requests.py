"""What the page sends, read as data: every value is checked before anything is done with it."""

import base64
import binascii
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np


class Refused(ValueError):
    """A request that no page of ours sends."""


class Request:
    """A JSON object, whose entries are asked for by name and kind."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self._entries = entries

    @classmethod
    def read(cls, body: bytes) -> "Request":
        try:
            entries = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            entries = None
        if not isinstance(entries, dict):
            raise Refused("Expected a JSON object.")
        return cls(entries)

    def has(self, name: str) -> bool:
        return self._entries.get(name) is not None

    def integer(self, name: str, least: int, most: int, default: int | None = None) -> int:
        value = self._entries.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Refused(f"{name}: expected an integer from {least} to {most}.")
        return value

    def number(self, name: str, least: float, most: float, default: float | None = None) -> float:
        value = self._entries.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Refused(f"{name}: expected a number.")
        if not least <= value <= most:
            raise Refused(f"{name}: expected a number from {least} to {most}.")
        return float(value)

    def boolean(self, name: str, default: bool = False) -> bool:
        value = self._entries.get(name, default)
        if not isinstance(value, bool):
            raise Refused(f"{name}: expected true or false.")
        return value

    def choice(self, name: str, choices: Sequence[str], default: str | None = None) -> str:
        value = self._entries.get(name, default)
        if not isinstance(value, str) or value not in choices:
            raise Refused(f"{name}: expected one of {', '.join(choices)}.")
        return value

    def place(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """A place in an array of that shape."""
        value = self._entries.get(name)
        if not isinstance(value, list) or len(value) != len(shape):
            raise Refused(f"{name}: expected {len(shape)} integers.")
        for i, size in zip(value, shape, strict=True):
            if isinstance(i, bool) or not isinstance(i, int) or not 0 <= i < size:
                raise Refused(f"{name}: expected a place in an array of shape {tuple(shape)}.")
        return tuple(value)

    def bytes(self, name: str, count: int) -> np.ndarray:
        """That many bytes, sent in base 64."""
        value = self._entries.get(name)
        try:
            found = base64.b64decode(value if isinstance(value, str) else "", validate=True)
        except (binascii.Error, ValueError):
            found = b""
        if len(found) != count or not isinstance(value, str):
            raise Refused(f"{name}: expected {count} bytes in base 64.")
        return np.frombuffer(found, np.uint8)

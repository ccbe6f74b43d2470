"""Time that a run may take."""

from __future__ import annotations

import re
import time

from headstart._errors import OptionError

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_budget(text: str | float) -> float:
    """Seconds from a number or a text such as "90", "90s", "2m", "1.5h". Raises OptionError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", str(text))
    if match is None or float(match[1]) <= 0:
        raise OptionError(f"the budget {text!r} is no time; write it as 90s, 2m or 1h")
    return float(match[1]) * _UNITS[match[2] or ""]


class Budget:
    """A clock that started when it was made."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._start = seconds, time.monotonic()

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def left(self) -> float:
        """Seconds left, never below zero."""
        return max(0.0, self._seconds - self.spent())

"""The unit of a metric, as its name tells."""

from __future__ import annotations

import re

_ENDINGS = {
    "ms": "ms", "millis": "ms", "milliseconds": "ms",
    "us": "us", "microseconds": "us",
    "s": "s", "sec": "s", "secs": "s", "seconds": "s",
    "gb": "gb", "gib": "gb", "mb": "mb", "mib": "mb", "kb": "kb", "kib": "kb", "bytes": "bytes",
    "percent": "%", "pct": "%", "fps": "fps", "watts": "w", "joules": "j",
}  # fmt: skip
_WORDS = {
    "latency": "ms",
    "throughput": "items/s",
    "memory": "mb",
    "utilization": "%",
    "duration": "s",
    "time": "s",
    "power": "w",
    "energy": "j",
    "fps": "fps",
}


def unit_of(metric_name: str) -> str:
    """A unit such as `ms` for `latency` or `mb` for `peak_memory`; a unit at the end wins; else ''."""
    words = re.split(r"[^a-z0-9]+", metric_name.lower().replace("/", " per "))
    if len(words) > 2 and words[-2] == "per" and words[-1] in ("s", "sec", "second"):
        return f"{words[-3]}/s"
    if len(words) > 1 and words[-1] in _ENDINGS:
        return _ENDINGS[words[-1]]
    return next((_WORDS[word] for word in words if word in _WORDS), "")

"""Differences between two sets of settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_ABSENT = object()


def differences(before: Any, now: Any, *, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The settings that differ, with both values, in the order of the first; nested ones under joined names."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys((*before, *now)):
            inner = f"{name}.{key}".lstrip(".")
            yield from differences(before.get(key, _ABSENT), now.get(key, _ABSENT), name=inner)
    elif before != now:
        was, is_now = ("none" if value is _ABSENT else value for value in (before, now))
        yield name, was, is_now

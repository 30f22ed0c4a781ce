"""The error of a config that cannot be used, and the hint that goes with a wrong key."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class ConfigError(ValueError):
    """A config that cannot be used; the message says which key, and what to do."""


def suggest(full_key: str, keys: Sequence[str]) -> str:
    """A sentence that names the key closest to ``full_key`` among ``keys`` of the same node, or all of them."""
    parent, _, name = full_key.rpartition(".")
    close = difflib.get_close_matches(name, keys, n=1)
    prefix = f"{parent}." if parent else ""
    if close:
        return f"Did you mean '{prefix}{close[0]}'?"
    return f"Keys of '{parent or 'the config'}': {', '.join(sorted(keys))}." if keys else ""

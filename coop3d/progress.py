"""Progress bars, and log lines that do not tear them."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

__all__ = ["logging_redirect_tqdm", "progress"]


def progress(*arguments: Any, **options: Any) -> tqdm:
    """A progress bar: lively on a terminal, a line every half minute in a file."""
    return tqdm(*arguments, dynamic_ncols=True, mininterval=0.3 if sys.stderr.isatty() else 30.0, **options)

"""Run the Python examples of a documentation page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"


def run_examples(page: str, **names: Any) -> dict[str, Any]:
    """Execute every ``python`` block of ``docs/<page>`` in one namespace, which begins with ``names``."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.S | re.M)
    if not blocks:
        raise ValueError(f"docs/{page} has no python example")
    namespace: dict[str, Any] = dict(names)
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)
    return namespace

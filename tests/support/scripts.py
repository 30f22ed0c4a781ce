"""The scripts, run as a shell would but in this process: a new one spends seconds importing torch."""

from __future__ import annotations

import io
import logging
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@dataclass(frozen=True)
class Said:
    """What a script printed; records of ``logging`` are in ``caplog`` instead."""

    stdout: str
    stderr: str


def run_script(name: str, *arguments: object, status: int = 0) -> Said:
    """Run ``scripts/name``; it must end with ``status``: 1 where it refuses its input, 2 where argparse does.

    Any exception but ``SystemExit`` is a traceback to its user and comes through.
    """
    out, err = io.StringIO(), io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    ended: object = None
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(SCRIPTS / name), *map(str, arguments)])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            ended = end.code
        finally:
            GlobalHydra.instance().clear()
            root.handlers[:] = handlers
            root.setLevel(level)
    if not isinstance(ended, int | None):  # as the interpreter does with a message
        err.write(f"{ended}\n")
        ended = 1
    assert (ended or 0) == status, f"{name} ended with {ended}, expected {status}: {err.getvalue()}"
    return Said(out.getvalue(), err.getvalue())

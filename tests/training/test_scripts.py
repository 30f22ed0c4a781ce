"""Shell scripts: help, refusals. What needs a set-up environment is left to their use in CI."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

BASH_SCRIPTS = Path(__file__).resolve().parents[2] / "bash_scripts"
TRAIN = BASH_SCRIPTS / "train" / "opv2v_cyl_coop.sh"


def bash(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *map(str, arguments)], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("path", sorted(BASH_SCRIPTS.rglob("*.sh")), ids=lambda p: p.name)
def test_syntax(path):
    assert bash("-n", path).stderr == ""


def test_help_needs_no_environment():
    result = bash(TRAIN, "--help")
    assert result.returncode == 0
    assert "NUM_GPUS" in result.stdout


@pytest.mark.parametrize("number", ["0", "two", "-1", "1.5"])
def test_number_of_processes_is_checked(number):
    result = bash(TRAIN, number)
    assert result.returncode == 2
    assert f"NUM_GPUS is '{number}'" in result.stderr

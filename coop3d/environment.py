"""Which code ran where: commit, versions of libraries, hardware."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("torch", "numpy", "hydra-core", "omegaconf", "opencv-python-headless", "numba")


def git_revision() -> dict[str, Any]:
    """Commit of the code and whether files differ from it; Nones where this is no git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(REPOSITORY), *arguments]
            return subprocess.run(
                command, capture_output=True, text=True, check=True, timeout=20
            ).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    status = git("status", "--porcelain")
    return {"revision": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def describe_environment(world_size: int, fingerprints: dict[str, str]) -> dict[str, Any]:
    """Code, versions, hardware and data of a run."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "git": git_revision(),
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": versions,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "world_size": world_size,
        "data_fingerprint": fingerprints,
    }

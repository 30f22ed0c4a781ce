"""Who holds how much of each GPU: asked of the driver, without taking any GPU memory."""

from __future__ import annotations

import csv
import os
import pwd
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

QUERY_GPUS = ("--query-gpu=uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
QUERY_PROCESSES = (
    "--query-compute-apps=gpu_uuid,pid,used_memory,process_name",
    "--format=csv,noheader,nounits",
)


@dataclass(frozen=True)
class GpuProcess:
    """A process with memory on a GPU; ``used_bytes`` is None where the driver does not tell."""

    pid: int
    used_bytes: int | None
    user: str
    command: str

    def __str__(self) -> str:
        used = "unknown size" if self.used_bytes is None else f"{self.used_bytes / 2**30:.1f} GiB"
        return f"pid {self.pid} ({self.user}, {used}): {self.command}"


@dataclass(frozen=True)
class GpuState:
    """One visible GPU at one moment."""

    index: int  # as torch counts
    name: str
    total_bytes: int
    free_bytes: int
    processes: tuple[GpuProcess, ...] = ()


GpuProbe = Callable[[int], GpuState]  # by torch's index


def probe_gpu(index: int) -> GpuState:
    """Ask nvidia-smi; where it is absent or does not know the GPU (a MIG slice), ask CUDA, which names no processes."""
    uuid = str(torch.cuda.get_device_properties(index).uuid)  # CUDA_VISIBLE_DEVICES renumbers, uuids stay
    try:
        state = parse_state(index, uuid, _ask(QUERY_GPUS), _ask(QUERY_PROCESSES))
    except (OSError, subprocess.SubprocessError):
        state = None
    if state is not None:
        return state
    free, total = torch.cuda.mem_get_info(index)
    return GpuState(index, torch.cuda.get_device_name(index), total, free)


def parse_state(index: int, uuid: str, gpus: list[list[str]], processes: list[list[str]]) -> GpuState | None:
    """The state of one GPU from the rows of `QUERY_GPUS` and `QUERY_PROCESSES` (sizes in MiB); None if absent."""
    for row_uuid, name, total, free in gpus:
        if row_uuid.removeprefix("GPU-") == uuid:
            mine = tuple(_process(row) for row in processes if row[0] == row_uuid)
            return GpuState(index, name, _bytes(total) or 0, _bytes(free) or 0, mine)
    return None


def _ask(query: tuple[str, ...]) -> list[list[str]]:
    output = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True, check=True, timeout=30)
    return [[cell.strip() for cell in row] for row in csv.reader(output.stdout.splitlines()) if row]


def _bytes(mebibytes: str) -> int | None:
    return int(mebibytes) * 2**20 if mebibytes.isdigit() else None  # "[N/A]" where the driver does not tell


def _process(row: list[str]) -> GpuProcess:
    pid, used, name = int(row[1]), _bytes(row[2]), ",".join(row[3:])
    return GpuProcess(pid, used, *_owner(pid, name))


def _owner(pid: int, name: str) -> tuple[str, str]:
    """User and command line of a process; another container's process is known by its name only."""
    folder = Path("/proc") / str(pid)
    try:
        user_id = folder.stat().st_uid
        words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "unknown user", name
    try:
        user = pwd.getpwuid(user_id).pw_name
    except KeyError:
        user = f"uid {user_id}"
    return user, " ".join(words).strip()[:160] or name


def host_memory_bytes() -> int:
    """Host memory this process may still take: what the machine has free, or the control group's limit leaves."""
    known = [limit for limit in (_meminfo(), cgroup_left()) if limit is not None]
    return min(known, default=os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _meminfo() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


@dataclass(frozen=True)
class _CgroupFiles:
    """Where a version of control groups says how much memory a group may take and has taken."""

    below: str  # folder under the mount point
    limit: str
    used: str
    file_pages: tuple[str, ...]  # of memory.stat


_CGROUP_FILES = {
    1: _CgroupFiles(
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
    2: _CgroupFiles("", "memory.max", "memory.current", ("inactive_file", "active_file")),
}


def cgroup_left(own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The least that any memory limit above this process leaves (a container's, a Slurm job's); None without limits.

    Cached file pages count as used in a group, but the kernel gives them back when asked: they are left.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    left = []
    for number, controllers, path in lines:
        version = 2 if number == "0" else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        files = _CGROUP_FILES[version]
        root = mount / files.below
        folder = root / path.lstrip("/")
        # In a container with a view of its own the path may be the host's: then only the root is there.
        for group in (folder, *folder.parents):
            if group.is_relative_to(root):
                left.append(_group_left(group, files))
    return min((n for n in left if n is not None), default=None)


def _group_left(group: Path, files: _CgroupFiles) -> int | None:
    try:
        most, now = ((group / name).read_text().strip() for name in (files.limit, files.used))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not most.isdigit():
        return None
    return int(most) - int(now) + sum(int(statistics.get(name, 0)) for name in files.file_pages)

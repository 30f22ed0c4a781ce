"""``torchrun``, except that a stop signal ends it with the status of its processes.

torchrun answers SIGTERM with an exception of its own and status 1, and kills its processes after half a minute. Here
the signal is passed on (also SIGUSR1 and a first Ctrl-C, as SIGTERM); the processes save, leave with status 0, and so
does this one, with 130 after Ctrl-C. A second Ctrl-C kills them.
Used as ``python -m coop3d.training.torchrun --nproc-per-node 2 scripts/train.py ...``.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

from coop3d.training.signals import INTERRUPTED, STOP_SIGNALS, announce_stop


def main() -> None:
    """Run torchrun's own command line."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser
    from torch.distributed.run import main as torchrun

    arguments = sys.argv[1:]
    if "--signals-to-handle" in get_args_parser().format_help():  # else torchrun behaves as it always did
        arguments = ["--signals-to-handle", "SIGQUIT", *arguments]
    for number in STOP_SIGNALS:
        signal.signal(number, _pass_on)
    interrupt = _Interrupt()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is in background jobs of shells
        signal.signal(signal.SIGINT, interrupt)
    try:
        torchrun(arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        sys.exit(f"Process {rank} ended first, with status {failure.exitcode}; what it said is above.")
    if interrupt.received:
        sys.exit(INTERRUPTED)


class _Interrupt:
    """Ctrl-C: the processes are asked to save and leave, at the second they are killed."""

    received = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            _send(signal.SIGKILL)
            raise KeyboardInterrupt
        self.received = True
        announce_stop()
        _send(signal.SIGTERM)


def _pass_on(number: int, frame: FrameType | None) -> None:
    _send(signal.SIGTERM)


def _send(number: signal.Signals) -> None:
    for process in _children():
        os.kill(process, number)  # loader processes, children of these, get no signal


def _children() -> list[int]:
    """Processes started by any thread of this one (Linux)."""
    lists = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    return [int(pid) for text in lists for pid in text.split()]


if __name__ == "__main__":
    main()

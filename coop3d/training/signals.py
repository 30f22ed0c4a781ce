"""Stop requests from outside (SIGTERM, SIGUSR1, a first Ctrl-C): noted at once, obeyed between two steps."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
INTERRUPTED = 128 + signal.SIGINT  # exit status at which shells do not go on to the next command


class StopRequest:
    """Context in which stop signals are noted instead of ending the process.

    So is a first Ctrl-C (SIGINT); the second ends the process at once. Where SIGINT is ignored it stays so: shells
    start background jobs like that.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def interrupted(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.received == signal.SIGINT.name

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader process, just forked, that does not ignore it yet
            return
        self._note(number, frame)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # obeyed even where Python waits for another process
        announce_stop()


def announce_stop() -> None:
    """One line about what Ctrl-C does, written past Python's buffers: a handler may run in the middle of a print."""
    os.write(2, b"\nCtrl-C: the step under way is finished and saved; press it again to end at once.\n")

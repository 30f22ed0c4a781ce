"""Which operations are really computed."""

from __future__ import annotations

from torch.utils._python_dispatch import TorchDispatchMode


class Executed(TorchDispatchMode):
    """Counts calls of one operation: what a checkpoint took from its store never gets here."""

    def __init__(self, operation):
        super().__init__()
        self.operation, self.count = operation, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is self.operation
        return func(*args, **(kwargs or {}))

"""A second device where there is none: what meets tensors of the CPU on a GPU fails here too, in the same places.

Its tensors call themselves `OTHER`, hold their values in host memory, and compute there. An operation of tensors of
both devices raises, unless GPUs allow it: copies, numbers without a dimension, an index that lies on the CPU.

Importing this changes the process for good: PyTorch then believes in an accelerator. So only processes of their own do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, library
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend


class _Backend(_DummyBackendModule):
    """What PyTorch asks of a device in Python: this one, what autocast may do there."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("other", backend_module=_Backend())
OTHER, OTHER_KEY = torch.device("other", 0), "PrivateUse1"
ops = torch.ops.aten
COPIES = {ops.copy_.default, ops._to_copy.default}
INDEXING = {ops.index.Tensor, ops.index_put.default, ops.index_put_.default, ops._index_put_impl_.default}


class MixedDevicesError(RuntimeError):
    """Tensors of both devices in one operation."""


class OtherTensor(Tensor):
    """A tensor on `OTHER`."""

    host: Tensor

    @staticmethod
    def __new__(cls, host: Tensor) -> OtherTensor:
        made: OtherTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(),
            dtype=host.dtype, layout=host.layout, device=OTHER,
        )  # fmt: skip
        made.host = host
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"OtherTensor({self.host})"

    def tolist(self) -> Any:  # type: ignore[override]
        """As of every tensor; subclasses have none."""
        return self.detach().cpu().tolist()

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, dict(kwargs or {}))


class OtherDevice(TorchDispatchMode):
    """Inside, `OTHER` is a device that computes: what makes tensors from nothing can make them there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, dict(kwargs or {}))


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)]
    _refuse_mixture(func, args, tensors)
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs["device"], there = torch.device("cpu"), torch.device(wanted).type == OTHER.type
    else:
        there = isinstance(args[0], OtherTensor) if func in COPIES else _any_other(tensors)
    out = func(*tree_map(_host, args), **tree_map(_host, kwargs))
    if not there:
        return out
    out = tree_map(lambda x: OtherTensor(x) if isinstance(x, Tensor) else x, out)
    return out if wanted is not None else return_and_correct_aliasing(func, args, kwargs, out)


def _refuse_mixture(func: Any, args: Sequence[Any], tensors: Sequence[Tensor]) -> None:
    if func in COPIES or not _any_other(tensors):
        return
    judged = tensors if func not in INDEXING else [x for x in (args[0], *args[2:]) if isinstance(x, Tensor)]
    here = [x for x in judged if not isinstance(x, OtherTensor) and x.ndim > 0]
    if here:
        raise MixedDevicesError(
            f"{func}: tensors of the CPU, {[tuple(x.shape) for x in here]}, and of {OTHER}"
        )


def _any_other(tensors: Sequence[Tensor]) -> bool:
    return any(isinstance(x, OtherTensor) for x in tensors)


def _host(x: Any) -> Any:
    return x.host if isinstance(x, OtherTensor) else x


# PyTorch makes tensors of lists and numbers below the level where modes and subclasses are asked.
_KERNELS = library.Library("aten", "IMPL")
_KERNELS.impl(
    "empty.memory_format", lambda size, **options: _run(ops.empty.memory_format, (size,), options), OTHER_KEY
)
_KERNELS.impl(
    "empty_strided",
    lambda size, stride, **options: _run(ops.empty_strided.default, (size, stride), options),
    OTHER_KEY,
)
_KERNELS.impl(
    "copy_", lambda to, source, non_blocking=False: _run(ops.copy_.default, (to, source), {}), OTHER_KEY
)

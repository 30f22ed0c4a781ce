"""Safe and fast YAML for OPV2V.

Frame files are written by PyYAML's full dumper: they may hold tuples and numpy scalars, for which the safe
loader gets two constructors; every other Python tag is refused. Most of a file is the list of vehicles, so the
reader can parse only the top-level keys it needs.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from coop3d.datasets.errors import DataError

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's parser where it is built in


class _OPV2VLoader(_Base):
    """Safe loader that also understands tuples and numpy scalars."""


def _construct_tuple(loader: Any, node: yaml.Node) -> tuple:
    return tuple(loader.construct_sequence(node, deep=True))


def _construct_dtype(loader: Any, node: yaml.MappingNode) -> np.dtype:
    # numpy writes `args: [f8, false, true]` and a `state` whose second entry is the byte order.
    fields = loader.construct_mapping(node, deep=True)
    state = fields.get("state") or (3, "<")
    order = state[1] if state[1] in "<>" else ""
    dtype = np.dtype(order + str(fields["args"][0]))
    if dtype.kind not in "biuf":
        raise yaml.constructor.ConstructorError(None, None, f"dtype {dtype} is not a number", node.start_mark)
    return dtype


def _construct_scalar(loader: Any, node: yaml.SequenceNode) -> float | int | bool:
    dtype, data = loader.construct_sequence(node, deep=True)
    return np.frombuffer(data, dtype=dtype, count=1)[0].item()


_OPV2VLoader.add_constructor("tag:yaml.org,2002:python/tuple", _construct_tuple)
_OPV2VLoader.add_constructor("tag:yaml.org,2002:python/object/apply:numpy.dtype", _construct_dtype)
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _OPV2VLoader.add_constructor(f"tag:yaml.org,2002:python/object/apply:{_module}.scalar", _construct_scalar)


def _top_level_blocks(text: str, keys: Collection[str]) -> str:
    """The parts of a block-style YAML mapping that belong to ``keys``."""
    blocks = re.split(r"^(?=[^\s#-])", text, flags=re.MULTILINE)
    return "".join(b for b in blocks if b.partition(":")[0].strip("'\" ") in keys)


def load_yaml(path: Path, keys: Collection[str] | None = None) -> dict[str, Any]:
    """Parse a YAML mapping safely.

    Args:
        path: the file.
        keys: parse only these top-level keys (several times faster on real frames); None means all.

    Raises:
        DataError: missing, unreadable, not YAML, not a mapping, or holding a Python object that is neither a
            tuple nor a numpy scalar.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected a YAML text file") from error
    try:
        if keys is not None and not text.lstrip().startswith("{"):  # blocks, not one mapping in braces
            try:
                data = yaml.load(_top_level_blocks(text, keys), Loader=_OPV2VLoader)
            except yaml.composer.ComposerError:  # an alias to an anchor in a block left out
                data = yaml.load(text, Loader=_OPV2VLoader)
        else:
            data = yaml.load(text, Loader=_OPV2VLoader)
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{path}: not a YAML file this reader accepts ({reason}); expected plain values, tuples and numpy "
            "scalars. Copy the file again, or move it away: a frame without one is left out."
        ) from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise DataError(f"{path}: holds a {type(data).__name__}, expected a mapping of keys to values")
    return data


def number_array(path: Path, data: dict[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    """``data[key]`` (dots descend into mappings) as a finite float64 array of ``shape``, or a `DataError`."""
    value: Any = data
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise DataError(
                f"{path}: key {key!r} is missing, expected numbers of shape {shape}. Is the file cut off? Copy it "
                "again."
            )
        value = value[part]
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = None
    if array is None or array.shape != shape:
        found = f"{type(value).__name__} {str(value)[:60]!r}" if array is None else f"shape {array.shape}"
        raise DataError(f"{path}: key {key!r} is {found}, expected numbers of shape {shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{path}: key {key!r} contains NaN or infinity, expected finite numbers")
    return array

"""Reading published or own weights into a model, with a precise complaint where they do not fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from coop3d.models.initialisation import initialise_additions
from coop3d.models.mapanything import MapAnything

# The published state dict stores some tensors under several names; the right-hand side is the module's.
_ALIASES = (
    (re.compile(r"^dense_head\.0\."), "dpt_feature_head."),
    (re.compile(r"^dense_head\.1\."), "dpt_regressor_head."),
    (re.compile(r"^dpt_feature_head\.(?:input_process\.(\d)\.1|scratch\.layer_rn\.(\d))\.weight$"), None),
)
_LISTED = 8  # names shown per kind of mismatch


def canonical_name(name: str) -> str:
    """The module's name for a tensor stored under any of its published names."""
    for pattern, replacement in _ALIASES:
        if replacement is not None:
            name = pattern.sub(replacement, name)
        elif match := pattern.match(name):
            level = int(match[1] or match[2]) + 1
            name = f"dpt_feature_head.scratch.layer{level}_rn.weight"
    return name


def canonical_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Resolve aliases; each tensor once.

    Raises:
        ValueError: if two names of one tensor hold different values.
    """
    wrapped = bool(state) and all(name.startswith("module.") for name in state)  # saved from inside DDP
    result: dict[str, Tensor] = {}
    for stored, tensor in state.items():
        name = canonical_name(stored.removeprefix("module.") if wrapped else stored)
        known = result.setdefault(name, tensor)
        if known is not tensor and not torch.equal(known, tensor):
            raise ValueError(
                f"the checkpoint holds different values under two names of {name}, one is {stored}"
            )
    return result


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth`` / ``.pt`` file, a ``.safetensors`` file, or a folder with ``model.safetensors``.

    Read on the CPU. Nothing in the file is executed: ``torch.load`` runs with ``weights_only=True``.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"pretrained checkpoint {path} does not exist; set "
            "model.model_config.pretrained_checkpoint_path to a .pth or .safetensors file, to a folder with "
            "model.safetensors, or to null to start from random weights"
        )
    if path.suffix == ".safetensors":
        return safetensors.torch.load_file(path, device="cpu")
    loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(isinstance(x, Tensor) for x in loaded.values()):
        raise ValueError(
            f"{path}: found {type(loaded).__name__}, expected a state dict or a dict with key 'model'"
        )
    return dict(loaded)


def load_checkpoint(model: MapAnything, path: str | Path) -> list[str]:
    """Load weights strictly, also into a model built on the meta device.

    Only what the project adds to MapAnything may be missing (it then starts at zero effect), and only encoders
    that the configuration leaves out may be left over.

    Returns:
        Names of the missing additions.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming every kind of mismatch.
    """
    state = canonical_state(read_state(path))
    additions = model.get_additions()
    ignored = [f"{name}.*" for name in model.absent_encoders()]
    state = {k: v for k, v in state.items() if not _matches(k, ignored)}
    fresh = [name for name in additions if not any(k.startswith(f"{name}.") for k in state)]
    expected = model.state_dict()
    required = {k for k in expected if not _matches(k, (f"{name}.*" for name in fresh))}
    _complain(path, expected, state, required)
    _load(model, state, fresh)
    return fresh


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def _complain(
    path: str | Path, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], required: set[str]
) -> None:
    shapes = [
        f"{k} {list(v.shape)} instead of {list(expected[k].shape)}"
        for k, v in state.items()
        if k in expected and v.shape != expected[k].shape
    ]
    problems = {
        "missing": sorted(required - state.keys()),
        "unexpected": sorted(state.keys() - expected.keys()),
        "of another shape": shapes,
    }
    if not any(problems.values()):
        return
    lines = [f"{path} does not fit the model configuration:"]
    for kind, names in problems.items():
        if names:
            more = f" ... and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            lines.append(f"  {len(names)} tensors {kind}: {', '.join(names[:_LISTED])}{more}")
    lines.append("Choose the matching model=mapanything (v1) or model=mapanything_v1_1, or another file.")
    raise ValueError("\n".join(lines))


def _load(model: MapAnything, state: Mapping[str, Tensor], fresh: list[str]) -> None:
    """Put checked tensors in place, float32 as they train; ``fresh`` additions get their start values."""
    on_meta = model.scale_token.is_meta
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False, assign=on_meta)
    if not on_meta:
        return
    initialise_additions({name: model.get_submodule(name).to_empty(device="cpu") for name in fresh})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])

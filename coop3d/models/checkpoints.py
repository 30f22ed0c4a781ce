"""Weights into a model, with a precise complaint where they do not fit, and out of it under published names."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coop3d.files import replacing
from coop3d.models.initialisation import initialise_additions
from coop3d.models.lora import plain_state
from coop3d.models.matching_head import MatchingHead
from coop3d.models.position_table import seam_jump
from coop3d.models.published import canonical_state, published_state
from coop3d.models.weight_files import read_state, trained_model

if TYPE_CHECKING:
    from coop3d.models.mapanything import MapAnything

log = logging.getLogger(__name__)

POSITION_TABLE = "encoder.model.pos_embed"
ALIGNMENT = 64  # bytes: where the memory of a tensor begins that PyTorch makes itself
_LISTED = 8  # names shown per kind of mismatch


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a checkpoint brought."""

    path: Path
    loaded: int  # tensors put in place
    fresh: tuple[str, ...]  # the project's additions that the file lacks: they start at zero effect
    left_out: tuple[str, ...]  # sub-modules of the file that the configuration leaves out
    not_asked: int = 0  # tensors outside of the sub-modules asked for
    seam_jump: float | None = (
        None  # of a loaded position table that is read on a circle, see `position_table`
    )

    def __str__(self) -> str:
        parts = [f"{self.path}: {self.loaded} tensors loaded"]
        if self.fresh:
            parts.append(f"not in the file, starting at zero effect: {', '.join(self.fresh)}")
        if self.left_out:
            parts.append(f"in the file, but not in the configuration: {', '.join(self.left_out)}")
        if self.not_asked:
            parts.append(f"{self.not_asked} tensors not asked for")
        if self.seam_jump is not None:
            parts.append(
                f"the position table's ends, neighbours in a panorama, differ by {self.seam_jump:.2f} times the step "
                "between columns (1: periodic)"
            )
        return "; ".join(parts)


def load_checkpoint(
    model: MapAnything, path: str | Path, submodules: Sequence[str] | None = None
) -> LoadReport:
    """Load weights strictly, also into a model built on the meta device.

    Only what the project adds to MapAnything may be missing (it then starts at zero effect), and only encoders
    that the configuration leaves out may be left over.

    Args:
        model: keeps its values outside of ``submodules``, so it must not be on the meta device if these are given.
        path: see `coop3d.models.weight_files.read_state`.
        submodules: dotted names (``encoder``, ``info_sharing``, ``scale_token``) to load; None loads all.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming every kind of mismatch, or a sub-module the model does not have.
    """
    state = canonical_state(read_state(path))
    ignored = model.absent_encoders()
    left_out = tuple(name for name in ignored if any(_inside(k, [name]) for k in state))
    state = {k: v for k, v in state.items() if not _inside(k, ignored)}
    fresh = [name for name in model.get_additions() if not any(_inside(k, [name]) for k in state)]
    if submodules is not None:
        fresh = [name for name in fresh if _inside(name, submodules)]
    expected, total = model.state_dict(), len(state)
    if submodules is not None:
        _check_names(submodules, expected)
        state, expected = ({k: v for k, v in s.items() if _inside(k, submodules)} for s in (state, expected))
    required = {k for k in expected if not _inside(k, fresh)}
    _complain(path, expected, state, required)
    _load(model, state, fresh)
    report = LoadReport(
        path=Path(path),
        loaded=len(state),
        fresh=tuple(fresh),
        left_out=left_out,
        not_asked=total - len(state),
        seam_jump=_seam_jump(model) if POSITION_TABLE in state else None,
    )
    log.info("%s", report)
    return report


def save_checkpoint(model: MapAnything, path: str | Path, **extra: Any) -> None:
    """Write ``checkpoint-*.pth`` as map-anything's training does: shared tensors under all their names.

    Adapters are merged first. The file replaces an existing one only when it is whole.

    Args:
        model: its weights go under key ``model``.
        path: the file.
        extra: further entries, such as ``epoch``; tensors, numbers, strings and containers of these.
    """
    payload = {**extra, "model": published_state(plain_state(model))}
    with (
        replacing(Path(path)) as temporary,
        temporary.open("wb") as file,
    ):  # a path's name would be in the file
        torch.save(payload, file)


def _seam_jump(model: MapAnything) -> float | None:
    """Of the model's position table if it is read on a circle."""
    transformer = model.encoder.model
    return seam_jump(transformer.position_table()) if transformer.wrap_around else None


def _inside(name: str, parents: Iterable[str]) -> bool:
    """Whether a parameter is one of ``parents`` or lies in one of these sub-modules."""
    return any(fnmatch(name, f"{parent}.*") or name == parent for parent in parents)


def _check_names(submodules: Sequence[str], expected: Mapping[str, Tensor]) -> None:
    for wanted in submodules:
        if not any(_inside(name, [wanted]) for name in expected):
            top = sorted({name.split(".")[0] for name in expected})
            raise ValueError(f"the model has no sub-module {wanted!r} to load; it has {', '.join(top)}")


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
    trained = trained_model(path)
    lines.append(
        "Choose the matching model=mapanything (v1) or model=mapanything_v1_1, or another file."
        if trained is None
        else f"It is a checkpoint of model={trained} (model.model_config.name in its config): choose that, with "
        "the options it was trained with, or another file."
    )
    raise ValueError("\n".join(lines))


def _aligned(tensor: Tensor) -> Tensor:
    """A copy where a tensor begins just anywhere in a file: products are slower there, and on some processors round
    otherwise than in memory of their own."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def _load(model: MapAnything, state: Mapping[str, Tensor], fresh: list[str]) -> None:
    """Put checked tensors in place, float32 as they train; ``fresh`` additions get their start values."""
    on_meta = model.scale_token.is_meta
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    tensors = {k: _aligned(v.float()) if on_meta else v for k, v in state.items()}
    model.load_state_dict(tensors, strict=False, assign=on_meta)
    additions = {name: model.get_submodule(name) for name in fresh}
    if on_meta:
        for module in additions.values():
            module.to_empty(device="cpu")
    initialise_additions(additions)
    for module in additions.values():
        if isinstance(module, MatchingHead):
            module.silence()  # its random descriptors would outvote the loaded pose head
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])

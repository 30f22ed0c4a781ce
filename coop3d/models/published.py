"""Names and configurations of the published MapAnything, and ours for the same thing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from coop3d.models.config import MapAnythingConfig, from_mapping

# Sub-modules that the published model lacks, each with options of its own that build it.
ADDITIONS = ("ray_origins_encoder", "info_sharing.view_role", "info_sharing.rig_camera", "matching_head")

# The published state dict stores some tensors under several names; the right-hand side is the module's.
_ALIASES = (
    (re.compile(r"^dense_head\.0\."), "dpt_feature_head."),
    (re.compile(r"^dense_head\.1\."), "dpt_regressor_head."),
    (re.compile(r"^dpt_feature_head\.(?:input_process\.(\d)\.1|scratch\.layer_rn\.(\d))\.weight$"), None),
)
_LEVEL = re.compile(r"^dpt_feature_head\.scratch\.layer(\d)_rn\.weight$")
_WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel, torch.compile


def canonical_name(name: str) -> str:
    """The module's name for a tensor stored under any of its published names."""
    for pattern, replacement in _ALIASES:
        if replacement is not None:
            name = pattern.sub(replacement, name)
        elif match := pattern.match(name):
            level = int(match[1] or match[2]) + 1
            name = f"dpt_feature_head.scratch.layer{level}_rn.weight"
    return name


def published_names(name: str) -> list[str]:
    """Every name under which the published state dict stores one of the module's tensors, sorted."""
    names = [name]
    if match := _LEVEL.match(name):
        level = int(match[1]) - 1
        names += [f"dpt_feature_head.{part}.{level}" for part in ("scratch.layer_rn", "input_process")]
        names[1:] = [f"{names[1]}.weight", f"{names[2]}.1.weight"]
    for ours, theirs in (("dpt_feature_head.", "dense_head.0."), ("dpt_regressor_head.", "dense_head.1.")):
        names += [theirs + n.removeprefix(ours) for n in names if n.startswith(ours)]
    return sorted(names)


def canonical_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Resolve aliases and prefixes of wrappers; each tensor once.

    Raises:
        ValueError: if two names of one tensor hold different values.
    """
    prefix = ""
    while wrapper := next((w for w in _WRAPPERS if _all_start(state, prefix + w)), None):
        prefix += wrapper
    result: dict[str, Tensor] = {}
    for stored, tensor in state.items():
        name = canonical_name(stored.removeprefix(prefix))
        if tensor.ndim == 0:  # earlier code kept the temperature as a scalar
            tensor = tensor.reshape(1)
        known = result.setdefault(name, tensor)
        if known is not tensor and not torch.equal(known, tensor):
            raise ValueError(
                f"the checkpoint holds different values under two names of {name}, one is {stored}"
            )
    return result


def _all_start(state: Mapping[str, Tensor], prefix: str) -> bool:
    return bool(state) and all(name.startswith(prefix) for name in state)


def published_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict as the published ``.pth`` files hold it: shared tensors under all of their names."""
    return {alias: tensor for name, tensor in state.items() for alias in published_names(name)}


def published_safetensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """As the published ``model.safetensors`` files hold it: each tensor once, under its first name."""
    return {published_names(name)[0]: tensor.contiguous() for name, tensor in state.items()}


def config_from_published(arch: Mapping[str, Any]) -> MapAnythingConfig:
    """Our configuration of a published one.

    Args:
        arch: ``resolved_model_config`` holds the arguments of the published constructor (the ``config.json`` of
            a published folder); ``vit_override`` may give the encoder another size.
    """
    resolved = arch["resolved_model_config"]
    encoder, head = resolved["encoder_config"], resolved["pred_head_config"]
    sharing, inputs = resolved["info_sharing_config"]["module_args"], resolved["geometric_input_config"]
    sizes = {"large": (1024, 24, 16), "giant": (1536, 40, 24)}[encoder["size"]]
    vit = arch.get("vit_override") or dict(zip(("embed_dim", "depth", "num_heads"), sizes, strict=True))
    gated = "swiglu" in resolved.get("info_sharing_mlp_layer_str", "mlp")
    values = {
        "encoder": {
            "embed_dim": vit["embed_dim"],
            "depth": encoder.get("keep_first_n_layers") or vit["depth"],
            "num_heads": vit["num_heads"],
            "mlp": "swiglu" if encoder["size"] == "giant" else "gelu",
            "final_norm": encoder.get("norm_returned_features", True),
            "pass_cls_token": resolved.get("use_register_tokens_from_encoder", False),
        },
        "info_sharing": {
            "module_args": {
                "dim": sharing.get("dim", 768),
                "depth": sharing["depth"],
                "num_heads": sharing.get("num_heads", 12),
                "indices": sharing["indices"],
                "mlp": "swiglu" if gated else "gelu",
                "layer_scale_init": sharing.get("init_values"),
            }
        },
        "pred_head": {
            "feature_dim": head["feature_head"]["feature_dim"],
            "layer_dims": head["feature_head"].get("layer_dims", [96, 192, 384, 768]),
            "scale_hidden_dim": head["scale_head"].get("hidden_dim", 196),
        },
        "geometric_inputs": {
            "dense_dims": inputs["ray_dirs_encoder_config"].get("intermediate_dims", [588, 768, 1024]),
            "global_dims": inputs["cam_rot_encoder_config"].get("intermediate_dims", [128, 256, 512]),
        },
    }
    return from_mapping(MapAnythingConfig, values)

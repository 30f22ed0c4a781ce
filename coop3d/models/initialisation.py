"""Starting values for a model without a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from coop3d.models.config import MapAnythingConfig
from coop3d.models.matching_head import MatchingHead

if TYPE_CHECKING:
    from coop3d.models.mapanything import MapAnything

OUTPUT_STD = 1e-3  # last layers: outputs start within a few per cent of their intended values


@torch.no_grad()
def initialise(model: MapAnything, config: MapAnythingConfig) -> None:
    """Set every parameter of a MapAnything so that training can start from nothing.

    Transformers get DINOv2's truncated normal. The heads and geometric encoders are plain ReLU / GELU
    networks without normalisation inside, so they get He's: 0.02 would fade their signal layer by layer.
    Outputs start at identity poses, distance about 1, and ``initial_scale_m``.
    """
    for name, module in model.named_modules():
        in_transformer = name.startswith(("encoder.", "info_sharing."))
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            _init_layer(module, in_transformer)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.get_parameter("scale_token"), std=0.02)
    _init_encoder_tokens(model, config)
    _init_outputs(model, config)
    initialise_additions(model.get_additions())


@torch.no_grad()
def initialise_additions(additions: Mapping[str, nn.Module]) -> None:
    """Set what MapAnything's checkpoints do not have; at zero effect, so that they behave as published."""
    for name, module in additions.items():
        for child in module.modules():
            if isinstance(child, (nn.Linear, nn.Conv2d)):
                _init_layer(child, in_transformer=False)
            elif isinstance(child, (nn.LayerNorm, nn.GroupNorm)):
                child.reset_parameters()  # made without contents where published weights are loaded
        if isinstance(module, MatchingHead):
            module.reset()  # its outputs are new: whatever they are, nothing that was there changes
            continue
        if name == "ray_origins_encoder":
            module = module.get_submodule("norm_layer")
        for parameter in module.parameters(recurse=False):
            nn.init.zeros_(parameter)


def _init_layer(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, in_transformer: bool) -> None:
    if in_transformer:
        nn.init.trunc_normal_(layer.weight, std=0.02)
    elif isinstance(layer, nn.ConvTranspose2d):  # kernel = stride: each output sees in_channels inputs
        nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.in_channels))
    else:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _init_encoder_tokens(model: MapAnything, config: MapAnythingConfig) -> None:
    table = model.get_parameter("encoder.model.pos_embed")
    codes = sinusoidal_table(*config.encoder.position_grid, table.shape[-1])
    table[0, 1:] = codes.to(table)
    table[0, 0] = 0
    nn.init.trunc_normal_(model.get_parameter("encoder.model.cls_token"), std=0.02)


def _quieten_dense_head(model: MapAnything) -> None:
    """Keep the dense head's features near unit size, however many residual sums they pass.

    Residual branches start at zero, and layers that no ReLU follows lose He's factor of two; otherwise features
    grow a hundredfold to the last layer, whose gradient then drowns every other one.
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d) or not name.startswith("dpt_"):
            continue
        if "resConfUnit" in name and name.endswith("conv2"):
            nn.init.zeros_(module.weight)
        elif not name.endswith(("resConfUnit1.conv1", "resConfUnit2.conv1", "conv2.0")):
            module.weight.mul_(math.sqrt(0.5))


def _init_outputs(model: MapAnything, config: MapAnythingConfig) -> None:
    _quieten_dense_head(model)
    nn.init.trunc_normal_(model.get_parameter("dpt_regressor_head.conv2.2.weight"), std=OUTPUT_STD)
    # Raw rays start forward (z) at unit length: the gradient of normalising them is 1 / length.
    model.get_parameter("dpt_regressor_head.conv2.2.bias")[2] = 1.0
    for name, bias in (("fc_t", (0.0, 0.0, 0.0)), ("fc_rot", (0.0, 0.0, 0.0, 1.0))):
        nn.init.zeros_(model.get_parameter(f"pose_head.{name}.weight"))
        model.get_parameter(f"pose_head.{name}.bias").copy_(torch.tensor(bias))
    nn.init.trunc_normal_(model.get_parameter("scale_head.output_proj.weight"), std=OUTPUT_STD)
    nn.init.constant_(
        model.get_parameter("scale_head.output_proj.bias"), math.log(config.pred_head.initial_scale_m)
    )


def sinusoidal_table(rows: int, columns: int, dim: int) -> Tensor:
    """[rows * columns, dim] codes to start a learned position table from, periodic in the column.

    Half of the channels are sines and cosines of whole turns per image width, half of half turns per height.
    """
    quarter = dim // 4
    harmonic = 1 + torch.arange(quarter) % max(1, columns // 2 - 1)  # below the table's Nyquist frequency
    x = 2 * math.pi * harmonic * ((torch.arange(columns) + 0.5) / columns)[:, None]
    harmonic = 1 + torch.arange(quarter) % max(1, rows - 1)
    y = math.pi * harmonic * ((torch.arange(rows) + 0.5) / rows)[:, None]
    by_column = torch.cat([x.sin(), x.cos()], dim=1)[None].expand(rows, -1, -1)
    by_row = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(-1, columns, -1)
    codes = torch.cat([by_column, by_row], dim=-1).flatten(0, 1)
    return torch.nn.functional.pad(codes, (0, dim - codes.shape[-1])) * 0.3

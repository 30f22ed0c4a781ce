"""Dense, pose and scale heads. All run in float32 and return raw numbers; `adaptors` gives them meaning."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from coop3d.models.spatial import WrapConv2d, upsample

DENSE_CHANNELS = 6  # ray x, y, z, log-distance, log-confidence, mask logit


class ResidualConvUnit(nn.Module):
    """``x + conv2(relu(conv1(relu(x))))``."""

    def __init__(self, dim: int, wrap: bool, column_dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = WrapConv2d(dim, dim, 3, wrap=wrap, column_dilation=column_dilation)
        self.conv2 = WrapConv2d(dim, dim, 3, wrap=wrap, column_dilation=column_dilation)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """[N, F, h, w] to [N, F, h, w]."""
        y = self.conv2(self.relu(self.conv1(F.relu(x))))
        return y.add_(x) if self.relu.inplace else y + x


def leave_outputs(head: nn.Module) -> None:
    """Change no output of a convolution in place: a checkpoint policy that keeps them must find them as they were."""
    for module in head.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False


def _group_norm(dim: int, norm: bool) -> nn.Module:
    """Over all channels and pixels of an image: sums of levels grow without it when a head trains from nothing."""
    return nn.GroupNorm(1, dim) if norm else nn.Identity()


class FusionBlock(nn.Module):
    """Add a finer level, refine, project, upsample.

    Published order is the other one. A pointwise layer and an interpolation commute, since weights of interpolation
    sum to 1, and before upsampling the layer has a quarter of the pixels.
    """

    def __init__(self, dim: int, wrap: bool, norm: bool = False, coarsest: bool = False) -> None:
        super().__init__()
        # The coarsest level of a wrapped panorama keeps every patch column, see `DptFeatures`.
        dense_columns = coarsest and wrap
        self.wrap = wrap
        self.column_factor = 1 if dense_columns else 2
        self.out_conv = nn.Conv2d(dim, dim, 1)
        self.norm = _group_norm(dim, norm)
        self.resConfUnit1 = None if coarsest else ResidualConvUnit(dim, wrap)
        self.resConfUnit2 = ResidualConvUnit(dim, wrap, column_dilation=2 if dense_columns else 1)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """[N, F, h, w] to [N, F, 2 h, 2 w]; ``skip`` [N, F, h, w] is the finer level."""
        if skip is not None:
            assert self.resConfUnit1 is not None
            x = x + self.resConfUnit1(skip)
        x = self.resConfUnit2(x)
        size = (2 * x.shape[-2], self.column_factor * x.shape[-1])
        return self.norm(upsample(self.out_conv(x), size, self.wrap))


class DptFeatures(nn.Module):
    """Dense prediction transformer: four token levels to one feature map at 8 x the patch grid.

    With ``wrap`` the coarsest level, elsewhere of stride 2, keeps stride 1 along the columns and its
    convolutions are dilated instead: the same filters at every column, since a stride would make the result
    depend on whether a panorama starts at an even or an odd patch.
    """

    def __init__(
        self,
        in_dims: tuple[int, int, int, int],
        layer_dims: tuple[int, ...],
        dim: int,
        wrap: bool,
        norm: bool = False,
    ) -> None:
        super().__init__()
        l0, l1, _, l3 = layer_dims
        project = [nn.Conv2d(i, o, 1) for i, o in zip(in_dims, layer_dims, strict=True)]
        coarse = WrapConv2d(l3, l3, 3, wrap=wrap, stride=(2, 1 if wrap else 2))
        levels = [
            nn.Sequential(project[0], nn.ConvTranspose2d(l0, l0, 4, stride=4)),
            nn.Sequential(project[1], nn.ConvTranspose2d(l1, l1, 2, stride=2)),
            nn.Sequential(project[2]),
            nn.Sequential(project[3], coarse),
        ]
        # One more nesting than needed: the published parameter names.
        self.input_process = nn.ModuleList(nn.Sequential(level) for level in levels)
        self.scratch = nn.Module()
        for k, width in enumerate(layer_dims):
            dilation = 2 if wrap and k == 3 else 1
            conv = WrapConv2d(width, dim, 3, wrap=wrap, column_dilation=dilation, bias=False)
            self.scratch.add_module(f"layer{k + 1}_rn", conv)
            self.scratch.add_module(f"refinenet{k + 1}", FusionBlock(dim, wrap, norm, coarsest=k == 3))

    def forward(self, levels: tuple[Tensor, ...]) -> Tensor:
        """Four maps [N, C_k, h, w], finest use first, to [N, F, 8 h, 8 w]."""
        h, w = levels[0].shape[-2:]
        layers = [
            self.scratch.get_submodule(f"layer{k + 1}_rn")(self.input_process[k](level))
            for k, level in enumerate(levels)
        ]
        fuse = [self.scratch.get_submodule(f"refinenet{k + 1}") for k in range(4)]
        x = fuse[3](layers[3])[..., :h, :w]  # odd grids were rounded up by the stride
        for k in (2, 1, 0):
            x = fuse[k](x, layers[k])
        return x


class DptRegressor(nn.Module):
    """Feature map to raw dense predictions at image resolution."""

    def __init__(self, dim: int, wrap: bool, norm: bool = False) -> None:
        super().__init__()
        half = dim // 2
        self.wrap = wrap
        self.conv1 = WrapConv2d(dim, half, 3, wrap=wrap)
        self.norm = _group_norm(half, norm)
        self.conv2 = nn.Sequential(
            WrapConv2d(half, half, 3, wrap=wrap), nn.ReLU(inplace=True), nn.Conv2d(half, DENSE_CHANNELS, 1)
        )

    def forward(self, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """[N, F, 8 h, 8 w] to [N, 6, H, W]."""
        return self.conv2(upsample(self.norm(self.conv1(features)), image_size, self.wrap))


class _PoseResidual(nn.Module):
    """Three pointwise layers beside a shortcut."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Conv2d(dim, dim, 1)
        self.res_conv2 = nn.Conv2d(dim, dim, 1)
        self.res_conv3 = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] to [N, D, h, w]."""
        y = F.relu(self.res_conv1(x))
        y = F.relu(self.res_conv2(y))
        return x + F.relu(self.res_conv3(y))


class PoseHead(nn.Module):
    """One pose per view from its tokens: pointwise layers, average over the image, two linear layers."""

    def __init__(self, in_dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, hidden, 1)
        self.res_conv = nn.ModuleList(_PoseResidual(hidden) for _ in range(2))
        self.more_mlps = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.fc_t = nn.Linear(hidden, 3)
        self.fc_rot = nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, Ct, h, w] to translation [N, 3] and unnormalised quaternion [N, 4] (x, y, z, w)."""
        x = self.proj(x)
        for block in self.res_conv:
            x = block(x)
        x = self.more_mlps(x.mean((-2, -1)))
        return self.fc_t(x), self.fc_rot(x)


class ScaleHead(nn.Module):
    """Log of the metric scale from the scale token."""

    def __init__(self, in_dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(in_dim, hidden)
        self.mlp = nn.Sequential(
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()),
            nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU()),
        )
        self.output_proj = nn.Linear(hidden, 1)

    def forward(self, token: Tensor) -> Tensor:
        """[B, Ct] to [B]."""
        return self.output_proj(self.mlp(self.proj(token)))[..., 0]


def to_map(tokens: Tensor, h: int, w: int) -> Tensor:
    """[..., h * w, C] row-major tokens to [N, C, h, w] with all leading axes flattened.

    On a CPU the map shares the tokens' memory, that is, channels lie last. Convolutions and upsampling keep that
    layout and are a quarter faster in it than in the one with rows last.
    """
    maps = tokens.flatten(0, -3).transpose(1, 2).unflatten(-1, (h, w))
    return maps if maps.device.type == "cpu" else maps.contiguous()

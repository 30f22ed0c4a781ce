"""MapAnything's own code, built at the size of benchmarks/bench_model.py from checkouts of its three repositories."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CHECKOUTS = ("map-anything", "UniCeption", "dinov2")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Imported by modules that are not used here.
UNUSED = ("torchvision", "torchvision.transforms", "timm", "timm.layers")


def build(folder: Path, checkpointing: bool) -> nn.Module:
    """The official model, random weights.

    Raises:
        SystemExit: if ``folder`` lacks one of `CHECKOUTS`, or the environment a package that they need.
    """
    _make_importable(folder)
    try:
        from mapanything.models import MapAnything
    except ImportError as error:
        raise SystemExit(f"{folder}: {error}. Install that package (the official code needs it).") from error
    torch.manual_seed(0)
    model: nn.Module = MapAnything(**_config(checkpointing))
    return model


def _make_importable(folder: Path) -> None:
    missing = [name for name in CHECKOUTS if not (folder / name).is_dir()]
    if missing:
        raise SystemExit(
            f"{folder}: no folder {', '.join(missing)}; expected checkouts of {', '.join(CHECKOUTS)}. Clone them there."
        )
    sys.path[:0] = [str(folder / name) for name in CHECKOUTS]
    for name in UNUSED:
        if not _is_installed(name.partition(".")[0]):
            sys.modules[name] = _Unused(name)
    warnings.filterwarnings("ignore", message="xFormers is")
    from_hub = torch.hub.load

    def load(_repository: str, name: str, **_: Any) -> Any:
        """The image encoder, with the large one's feed-forward layers, from the checkout and without weights."""
        return from_hub(
            str(folder / "dinov2"), name, source="local", pretrained=False, ffn_layer="swiglufused"
        )

    torch.hub.load = load


def _is_installed(package: str) -> bool:
    stands_in = isinstance(sys.modules.get(package), _Unused)
    return not stands_in and importlib.util.find_spec(package) is not None


class _Unused(types.ModuleType):
    """Stands in for a package."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def _config(checkpointing: bool) -> dict[str, Any]:
    """Its v1.1 configuration, composed from its own files, at the sizes of `bench_model.middle_size`."""
    from mapanything.models import _init_hydra_config, resolve_special_float
    from omegaconf import OmegaConf

    if not OmegaConf.has_resolver("special_float"):
        OmegaConf.register_new_resolver("special_float", resolve_special_float)
    settings = {
        "model": "mapanything",
        "machine": "default",
        "model.encoder.size": "small",
        "model.encoder.keep_first_n_layers": 12,
        "model.encoder.gradient_checkpointing": checkpointing,
        "+model.encoder.torch_hub_pretrained": False,
        "model.info_sharing.module_args.dim": 384,
        "model.info_sharing.module_args.num_heads": 6,
        "model.info_sharing.module_args.depth": 8,
        "model.info_sharing.module_args.indices": "[3,5]",
        "model.info_sharing.module_args.gradient_checkpointing": checkpointing,
        "model.pred_head.feature_head.feature_dim": 128,
        "+model.pred_head.feature_head.layer_dims": "[96,192,384,768]",
        "model.pred_head.gradient_checkpointing": checkpointing,
    }
    composed = _init_hydra_config("configs/train.yaml", [f"{key}={value}" for key, value in settings.items()])
    config: dict[str, Any] = OmegaConf.to_container(composed.model.model_config, resolve=True)
    return config


def views_of(image: Tensor) -> list[dict[str, Any]]:
    """What the official model takes, of images [B, V, 3, H, W] in 0..1: normalised beforehand, as its loaders do."""
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    return [{"img": ((x - mean) / std).contiguous(), "data_norm_type": ["dinov2"]} for x in image.unbind(1)]


def objective(views: list[dict[str, Tensor]]) -> Tensor:
    """`bench_model.objective` of the official model's outputs."""
    terms = (
        view["pts3d"].square().mean()
        + view["conf"].mean()
        + view["non_ambiguous_mask_logits"].square().mean()
        + view["cam_trans"].square().mean()
        + view["cam_quats"].square().mean()
        for view in views
    )
    return sum(terms, torch.zeros(()))


def with_visible_weights(model: nn.Module) -> nn.Module:
    """Change weights that start at nearly nothing (LayerScale 1e-5, biases, class token 0), which would hide errors."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("gamma"):
                p.copy_(0.3 + 0.4 * torch.rand(p.shape, generator=generator))
            elif p.ndim == 1 or "cls_token" in name:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model

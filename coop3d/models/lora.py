"""Low-rank adapters by the PEFT library (an extra: ``pip install 'coop3d[peft]'``), and weights with them merged.

An adapted linear layer computes ``W x + b + (alpha / rank) B A x``. PEFT puts its layers in place inside the model,
so the model keeps its type; only the names of adapted layers gain ``base_layer`` and ``lora_*`` parts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from coop3d.files import replacing

ADAPTER = "default"  # PEFT's name of the only adapter
ADAPTER_FILE, TRAINED_FILE = "adapter_model.safetensors", "trained.safetensors"
_PEFT_PREFIX = "base_model.model."  # of every name in PEFT's files


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Size and place of the adapters. No dropout: recomputed layers would draw it anew."""

    rank: int = 16
    alpha: float = 32.0  # the adapter's output counts alpha / rank
    targets: tuple[str, ...] = ("encoder.*.attn.*", "info_sharing.*.attn.*")  # linear layers; * is any text

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"preset.lora: rank {self.rank} and alpha {self.alpha} must be positive")


def strip_adapter(name: str) -> str:
    """A parameter's name in the model without adapters."""
    return name.replace(".base_layer.", ".")


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return ".lora_" in name


def add_lora(model: nn.Module, options: LoraOptions) -> list[str]:
    """Put adapters into linear layers, at zero effect, and freeze everything else; returns the layers' names.

    Raises:
        ValueError: if a target names no linear layer, or PEFT is not installed.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    expressions = [re.escape(target).replace(r"\*", ".*") for target in options.targets]
    for target, expression in zip(options.targets, expressions, strict=True):
        if not any(re.fullmatch(expression, name) for name in linear):
            raise ValueError(f"preset.lora.targets: {target!r} names no linear layer, such as {linear[0]}")
    chosen = [name for name in linear if any(re.fullmatch(e, name) for e in expressions)]
    _inject(model, {"r": options.rank, "lora_alpha": options.alpha, "target_modules": chosen})
    return chosen


def _inject(model: nn.Module, settings: Mapping[str, Any]) -> None:
    peft = peft_library()
    peft.inject_adapter_in_model(peft.LoraConfig(**settings), model, adapter_name=ADAPTER)


def peft_library() -> ModuleType:
    """PEFT itself.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            "low-rank adapters need the PEFT library: pip install 'coop3d[peft]', or choose another preset"
        ) from error
    return peft


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and PEFT layers; nothing in a model without adapters."""
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight"):
            yield name, module


@torch.no_grad()
def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the model without adapters that computes the same: ``W + (alpha / rank) B A``.

    The model itself is untouched, since adding and subtracting the adapter would round its weights.
    """
    state = {strip_adapter(k): v for k, v in model.state_dict().items() if not is_adapter(k)}
    for name, layer in adapted_layers(model):
        state[f"{name}.weight"] = layer.base_layer.weight + layer.get_delta_weight(ADAPTER)
    return state


def merged_state(state: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The same for a saved state dict with adapters of strength ``alpha``, without a model."""
    merged = {strip_adapter(k): v.clone() for k, v in state.items() if not is_adapter(k)}
    for name, a in state.items():
        if (layer := name.removesuffix(f".lora_A.{ADAPTER}.weight")) != name:
            b = state[f"{layer}.lora_B.{ADAPTER}.weight"]
            merged[f"{layer}.weight"] += (b @ a) * (alpha / len(a))
    return merged


@torch.no_grad()
def merge_lora(model: nn.Module) -> int:
    """Replace adapted layers by plain ones that compute the same, for inference; returns how many."""
    layers = list(adapted_layers(model))
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        layer.base_layer.weight += layer.get_delta_weight(ADAPTER)
        setattr(model.get_submodule(parent), child, layer.base_layer)
    return len(layers)


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Write only what was trained: adapters in PEFT's format, and every other trainable parameter beside them.

    Files: ``adapter_config.json``, ``adapter_model.safetensors``, and ``trained.safetensors`` where needed.

    Raises:
        ValueError: if the model has no adapter.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().contiguous() for k, v in model.named_parameters()}
    adapters = {_PEFT_PREFIX + k.replace(f".{ADAPTER}.", "."): v for k, v in state.items() if is_adapter(k)}
    if not adapters:
        raise ValueError("the model has no adapters to save; save_checkpoint writes whole models")
    trainable = {k for k, p in model.named_parameters() if p.requires_grad and not is_adapter(k)}
    trained = {strip_adapter(k): state[k] for k in sorted(trainable)}
    config: Any = model.peft_config  # PEFT leaves it on the model
    config[ADAPTER].save_pretrained(str(folder))
    for name, tensors in ((ADAPTER_FILE, adapters), (TRAINED_FILE, trained)):
        if tensors:
            with replacing(folder / name) as path:
                safetensors.torch.save_file(tensors, path)
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier save with other options


def load_adapter(model: nn.Module, folder: str | Path) -> None:
    """Put adapters written by `save_adapter` into a model that has none or the same ones.

    Raises:
        FileNotFoundError: if the folder holds no adapter.
        ValueError: if it does not fit the model.
    """
    folder = Path(folder)
    if not (folder / ADAPTER_FILE).is_file():
        raise FileNotFoundError(f"{folder / ADAPTER_FILE} does not exist; save_adapter writes it")
    if not any(adapted_layers(model)):
        peft = peft_library()
        config = peft.PeftConfig.from_pretrained(str(folder))
        peft.inject_adapter_in_model(config, model, adapter_name=ADAPTER)
    stored = safetensors.torch.load_file(folder / ADAPTER_FILE)
    state = {_with_adapter_name(k.removeprefix(_PEFT_PREFIX)): v for k, v in stored.items()}
    if (folder / TRAINED_FILE).is_file():
        names = {strip_adapter(name): name for name in model.state_dict()}
        trained = safetensors.torch.load_file(folder / TRAINED_FILE)
        state |= {names.get(k, k): v for k, v in trained.items()}
    _load_strictly(model, state, folder)


def _with_adapter_name(name: str) -> str:
    return re.sub(r"(\.lora_[AB])\.", rf"\1.{ADAPTER}.", name)


def _load_strictly(model: nn.Module, state: Mapping[str, Tensor], folder: Path) -> None:
    expected = model.state_dict()
    absent = sorted(k for k in expected if is_adapter(k) and k not in state)
    wrong = sorted(k for k, v in state.items() if k not in expected or expected[k].shape != v.shape)
    if absent or wrong:
        raise ValueError(
            f"{folder} does not fit the model: missing {absent[:4]}, unknown or of another shape {wrong[:4]}"
        )
    model.load_state_dict(state, strict=False)

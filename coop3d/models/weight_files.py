"""Reading tensors from files of every kind that weights come in, on the CPU and without running any code."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from coop3d.models.lora import is_adapter, merged_state

SAFETENSORS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
# Training checkpoints of map-anything keep their config beside the weights, as objects of these modules. They are
# replaced by `_Inert`, never imported: we want the tensors only.
INERT_MODULES = ("argparse", "omegaconf", "pathlib", "typing")
INERT_NAMES = (  # that a config names as the types of its values
    "collections.defaultdict",
    *(
        f"builtins.{name}"
        for name in ("bool", "bytes", "dict", "float", "int", "list", "set", "str", "tuple")
    ),
)


class _Inert:
    """Stands for an object of a checkpoint that is not looked at."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a ``.pth`` / ``.pt`` / ``.bin`` file, a ``.safetensors`` file, or a Hugging Face folder.

    A pickled file holds a state dict, or a dict with key ``model`` (training checkpoints of this project and of
    map-anything). A folder holds ``model.safetensors`` (or its index and shards, or ``pytorch_model.bin``), or is
    such a repository's folder in the Hugging Face cache.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds something else.
        pickle.UnpicklingError: if it would have to run code.
    """
    files = weight_files(path)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= safetensors.torch.load_file(file) if file.suffix == ".safetensors" else _unpickle(file)
    return state


def weight_files(path: str | Path) -> list[Path]:
    """The file or files with the weights at ``path``, all of which exist."""
    path = Path(path).expanduser()
    if path.is_dir():
        return _of_folder(snapshot_of(path))
    if not path.is_file():
        raise FileNotFoundError(_absent(path))
    return [path]


def snapshot_of(folder: Path) -> Path:
    """The current snapshot where ``folder`` is a repository in the Hugging Face cache, else the folder itself."""
    current = folder / "refs" / "main"
    return folder / "snapshots" / current.read_text().strip() if current.is_file() else folder


def _of_folder(folder: Path) -> list[Path]:
    if (folder / SAFETENSORS).is_file():
        return [folder / SAFETENSORS]
    if (folder / INDEX).is_file():
        shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        if absent := [name for name in shards if not (folder / name).is_file()]:
            raise FileNotFoundError(
                f"{folder / INDEX} names {', '.join(absent)}, which {folder} does not hold"
            )
        return [folder / name for name in shards]
    if (folder / PICKLED).is_file():
        return [folder / PICKLED]
    raise FileNotFoundError(_absent(folder / SAFETENSORS))


def _absent(path: Path) -> str:
    return (
        f"pretrained checkpoint {path} does not exist; set "
        "model.model_config.pretrained_checkpoint_path to a .pth or .safetensors file, to a folder with "
        "model.safetensors, or to null to start from random weights"
    )


def _unpickle(path: Path) -> dict[str, Tensor]:
    loaded = _load(path)
    state, config = loaded, None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        state = loaded.get("ema") or loaded["model"]  # as `load_run`: what validation measured
        config = loaded.get("config")
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(
            f"{path}: found {type(state).__name__}, expected a state dict or a dict with key 'model'"
        )
    if any(is_adapter(name) for name in state):
        return merged_state(state, _lora_alpha(path, config))
    return {name: tensor.clone() for name, tensor in state.items()}  # not tied to the file


def _load(path: Path) -> Any:
    """What a pickled file holds; of a training checkpoint, the optimiser's state (twice the weights) stays unread."""
    with _without_configs(path):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))


def trained_model(path: str | Path) -> str | None:
    """The name of the model in the config of a training checkpoint of this project; None for other files."""
    path = Path(path).expanduser()
    if not (path.is_file() and _is_zip(path)):
        return None
    try:
        return str(_load(path)["config"]["model"]["model_config"]["name"])
    except (KeyError, TypeError):
        return None


def _lora_alpha(path: Path, config: Any) -> float:
    """The strength of the adapters of a checkpoint of ``preset=lora``."""
    try:
        return float(config["preset"]["lora"]["alpha"])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: holds low-rank adapters, but no config.preset.lora.alpha that says how strong they are; expected "
            "a checkpoint written by training, or one with merged adapters (scripts/publish_checkpoint.py)"
        ) from error


@contextmanager
def _without_configs(path: Path) -> Iterator[None]:
    """Let ``torch.load`` put `_Inert` in place of config objects; everything else stays forbidden."""
    find = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)  # absent before torch 2.6
    names = [] if find is None or not _is_zip(path) else find(path)
    inert = [(_Inert, n) for n in names if n.split(".")[0] in INERT_MODULES or n in INERT_NAMES]
    if not inert:
        yield
        return
    with torch.serialization.safe_globals(inert):  # type: ignore[arg-type]
        yield


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"

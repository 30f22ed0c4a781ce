"""Hugging Face style folders: ``config.json`` beside ``model.safetensors``.

The methods are those of huggingface_hub's PyTorchModelHubMixin. The library itself, which brings some fifteen
others, is an extra (``pip install 'coop3d[hub]'``) and needed only where something is fetched or pushed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import safetensors.torch
import torch

from coop3d.files import replacing, write_text
from coop3d.models.checkpoints import load_checkpoint
from coop3d.models.config import MapAnythingConfig, from_mapping
from coop3d.models.lora import plain_state
from coop3d.models.published import config_from_published, published_safetensors
from coop3d.models.weight_files import SAFETENSORS, snapshot_of

if TYPE_CHECKING:
    from coop3d.models.mapanything import MapAnything

CONFIG = "config.json"
LIBRARY = {"library_name": "coop3d"}  # what the hub shows; ignored when read


class HubMixin:
    """Gives `MapAnything` ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``."""

    config: MapAnythingConfig

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write ``config.json`` and ``model.safetensors``; adapters are merged in the file.

        Tensors get the names that the published ``model.safetensors`` files use.

        Args:
            folder: made if absent.

        Returns:
            The folder.
        """
        folder, model = Path(folder), cast("MapAnything", self)
        state = {k: v.detach().cpu() for k, v in plain_state(model).items()}
        with replacing(folder / SAFETENSORS) as path:
            safetensors.torch.save_file(published_safetensors(state), path, metadata={"format": "pt"})
        text = json.dumps({**LIBRARY, **config_to_dict(self.config)}, indent=2) + "\n"
        write_text(folder / CONFIG, text)
        return folder

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        *,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        **sections: Mapping[str, Any],
    ) -> MapAnything:
        """Build a model from a folder or a repository of the hub, on the CPU, in evaluation mode.

        Reads what `save_pretrained` wrote, and the published ``facebook/map-anything*`` folders.

        Args:
            name_or_folder: a folder, or ``owner/name`` on the hub (needs the extra ``hub``).
            revision: branch, tag or commit on the hub.
            token: as huggingface_hub takes it.
            cache_dir: where downloads go.
            local_files_only: use what was downloaded before.
            sections: changes of the stored configuration, such as ``panorama={"wrap_around": True}``.

        Raises:
            FileNotFoundError: if the folder lacks a file.
            ValueError: if weights do not fit the configuration, or huggingface_hub is needed and absent.
        """
        folder = Path(name_or_folder).expanduser()
        if not folder.is_dir():
            options = {"revision": revision, "token": token, "cache_dir": cache_dir}
            folder = _download(str(name_or_folder), options, local_files_only)
        folder = snapshot_of(folder)
        config = read_config(folder, sections)
        with torch.device("meta"):  # no memory for weights that are about to be replaced
            model = cast("MapAnything", cls(config))  # type: ignore[call-arg]
        load_checkpoint(model, folder)
        model.freeze_unreachable()
        return model.eval()

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes; the repository is made if absent. Returns the commit's address.

        Raises:
            ValueError: if huggingface_hub is not installed.
        """
        api = _hub().HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            commit = api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, revision=branch
            )
        return str(commit)


def config_to_dict(config: MapAnythingConfig) -> dict[str, Any]:
    """Plain containers that `coop3d.models.from_mapping` reads back; where the weights came from is left out."""
    source = replace(config.model_config, pretrained_checkpoint_path=None, pretrained_submodules=None)
    plain: dict[str, Any] = json.loads(json.dumps(asdict(replace(config, model_config=source))))
    return plain


def read_config(folder: Path, sections: Mapping[str, Mapping[str, Any]]) -> MapAnythingConfig:
    """The configuration of a folder, with changes.

    Raises:
        FileNotFoundError: if there is no ``config.json``.
        ValueError: for keys that do not exist.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; save_pretrained writes it beside model.safetensors")
    stored = json.loads(path.read_text(encoding="utf-8"))
    if "encoder_config" in stored:  # a published folder: arguments of the published constructor
        stored = config_to_dict(config_from_published({"resolved_model_config": stored}))
    known = {k: v for k, v in stored.items() if k not in LIBRARY}
    for name, changes in sections.items():
        known[name] = _merged(known.get(name) or {}, changes)
    return from_mapping(MapAnythingConfig, known)


def _merged(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changes of sections inside sections leave what stands beside them."""
    return {
        **old,
        **{
            key: _merged(old[key], value)
            if isinstance(value, Mapping) and isinstance(old.get(key), Mapping)
            else value
            for key, value in changes.items()
        },
    }


def _download(repo_id: str, options: Mapping[str, Any], local_files_only: bool) -> Path:
    if repo_id.count("/") != 1 or repo_id.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{repo_id} is no folder, and no owner/name of the Hugging Face hub")
    wanted = [CONFIG, "*.safetensors", "*.safetensors.index.json"]
    return Path(
        _hub().snapshot_download(repo_id, allow_patterns=wanted, local_files_only=local_files_only, **options)
    )


def _hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ValueError(
            "this needs huggingface_hub: pip install 'coop3d[hub]', or download the folder and pass its path"
        ) from error
    return huggingface_hub

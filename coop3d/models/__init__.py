"""MapAnything for panoramas: encoder, information sharing, heads, weights, fine-tuning presets."""

from coop3d.models.build import build_model
from coop3d.models.checkpoints import LoadReport, load_checkpoint, save_checkpoint
from coop3d.models.config import MapAnythingConfig, from_mapping
from coop3d.models.geometric_inputs import GeometricInputs
from coop3d.models.inference import compile_blocks
from coop3d.models.lora import LoraOptions, load_adapter, merge_lora, save_adapter
from coop3d.models.mapanything import MapAnything
from coop3d.models.presets import Preset

__all__ = [
    "GeometricInputs",
    "LoadReport",
    "LoraOptions",
    "MapAnything",
    "MapAnythingConfig",
    "Preset",
    "build_model",
    "compile_blocks",
    "from_mapping",
    "load_adapter",
    "load_checkpoint",
    "merge_lora",
    "save_adapter",
    "save_checkpoint",
]

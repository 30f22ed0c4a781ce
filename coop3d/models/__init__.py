"""MapAnything for panoramas: encoder, information sharing, heads, weight loading."""

from coop3d.models.build import build_model
from coop3d.models.checkpoints import load_checkpoint
from coop3d.models.config import MapAnythingConfig, from_mapping
from coop3d.models.geometric_inputs import GeometricInputs
from coop3d.models.mapanything import MapAnything

__all__ = [
    "GeometricInputs",
    "MapAnything",
    "MapAnythingConfig",
    "build_model",
    "from_mapping",
    "load_checkpoint",
]

"""Which fields of `ViewInputs` a predictor is given; everything else is taken out before it is called."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum

from coop3d.types import ViewInputs


class InputSet(Enum):
    """What a predictor declares to see. The value is what results record."""

    images = "images"
    images_rays = "images+rays"
    images_rays_rig = "images+rays+rig"  # rig: where each pixel's ray starts, i.e. the cameras' mounting

    @property
    def allowed(self) -> frozenset[str]:
        """Fields of `ViewInputs` that pass."""
        return _ALLOWED[self]

    def restrict(self, inputs: ViewInputs) -> ViewInputs:
        """New inputs that hold the declared fields only.

        Built from nothing, field by field: what is not declared, or added to `ViewInputs` later, stays outside.
        """
        return ViewInputs(**{name: getattr(inputs, name) for name in sorted(self.allowed)})

    @classmethod
    def parse(cls, text: str) -> InputSet:
        """From its value.

        Raises:
            ValueError: listing the sets there are.
        """
        try:
            return cls(text)
        except ValueError:
            known = ", ".join(member.value for member in cls)
            raise ValueError(f"inputs={text!r} is not one of {known}") from None


_ALLOWED = {
    InputSet.images: frozenset({"image"}),
    InputSet.images_rays: frozenset({"image", "rays"}),
    InputSet.images_rays_rig: frozenset({"image", "rays", "origins"}),
}
assert all(allowed <= {f.name for f in fields(ViewInputs)} for allowed in _ALLOWED.values())

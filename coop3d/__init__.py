"""coop3d: metric 3D geometry from the photographs of several connected vehicles, with no pose given."""

__version__ = "0.1.0"

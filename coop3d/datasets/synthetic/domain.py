"""Domains: kinds of places, weather and rigs that differ as one data set differs from another.

Geometry is as exact in each as in the other and calibration as truthful: what changes is what pictures look like, how
far apart streets and houses are, and where on the vehicle the cameras sit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from numpy.random import Generator

from . import buildings
from .buildings import Character, Colours
from .layout import StreetStyle
from .lighting import Light, make_hazy_light, make_light
from .rig import OPV2V_RIG, ROOF_RIG, Rig
from .textures import Paint
from .vehicles import CONNECTED_STYLES

Span = tuple[float, float]
Count = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class TownStyle:
    """What a town is built of; counts are drawn from the first to one below the second.

    Attributes:
        streets: how they are drawn.
        blocks: characters of blocks.
        mood: weights of the characters (Dirichlet's parameters), as many.
        colours: of walls and roofs.
        paint: of all textures.
        green: share of broad-leaved trees that are green.
        trees: in the middle of a block with grass.
        street_trees: share of streets with trees on wide enough sidewalks.
        woods: trees around the town.
        lamp_m: height of street lamps.
    """

    streets: StreetStyle
    blocks: tuple[Character, ...]
    mood: tuple[float, ...]
    colours: Colours
    paint: Paint
    green: float
    trees: Count
    street_trees: float
    woods: Count
    lamp_m: Span


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One kind of world.

    Attributes:
        name: as in :class:`SyntheticConfig`.
        town: how its towns are built.
        light: draws sun, sky and haze.
        rig: where the sensors of connected vehicles sit.
        connected: body styles of connected vehicles, numbers in ``vehicles.STYLES``.
    """

    name: str
    town: TownStyle
    light: Callable[[Generator], Light]
    rig: Rig
    connected: tuple[int, ...]


TOWN = Domain(
    name="town",
    town=TownStyle(
        streets=StreetStyle(),
        blocks=(buildings.DOWNTOWN, buildings.TERRACE, buildings.SUBURB, buildings.PARK),
        mood=(0.9, 1.0, 1.0, 0.5),
        colours=buildings.TOWN_COLOURS,
        paint=Paint(),
        green=0.75,
        trees=(2, 9),
        street_trees=0.6,
        woods=(90, 190),
        lamp_m=(5.5, 9.0),
    ),
    light=make_light,
    rig=OPV2V_RIG,
    connected=CONNECTED_STYLES,
)
OUTSKIRTS = Domain(
    name="outskirts",
    town=TownStyle(
        streets=StreetStyle(
            gaps_m=(70.0, 115.0),
            wide=0.8,
            open_share=0.6,
            parking=0.25,
            sidewalk_m=(4.0, 7.0),
            hills_m=(5.0, 20.0),
        ),
        blocks=(buildings.COTTAGES, buildings.HALLS, buildings.ORCHARD),
        mood=(1.2, 0.8, 0.8),
        colours=buildings.PALE_COLOURS,
        paint=Paint(
            asphalt=(0.3, 0.285, 0.26),
            paving=(0.42, 0.33, 0.24),
            grass=(0.26, 0.24, 0.09),
            walls=(3, 2, 0, 3, 2, 3, 5, 5, 4, 5),
            ribbon=0.3,
            window=(0.2, 0.45),
        ),
        green=0.35,
        trees=(4, 13),
        street_trees=0.9,
        woods=(110, 200),
        lamp_m=(8.0, 11.0),
    ),
    light=make_hazy_light,
    rig=ROOF_RIG,
    connected=(3,),  # vans: what the rig is made for
)
DOMAINS = {domain.name: domain for domain in (TOWN, OUTSKIRTS)}

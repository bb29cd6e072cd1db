# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The domains of the procedural streets as tables: colours and grain of surfaces, light, weather and camera."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .canvas import Part


Colour = tuple[float, float, float]

GROUND = (
    Part.ASPHALT, Part.MARKING, Part.PAVING, Part.CURB, Part.GRASS, Part.TRACK, Part.RED_LANE, Part.YELLOW_LINE,
)  # fmt: skip
SIGNALS = {Part.SIGNAL_RED: (255, 60, 40), Part.SIGNAL_AMBER: (255, 190, 40), Part.SIGNAL_GREEN: (60, 240, 130)}
SHINING = {**SIGNALS, Part.LAMP: (255, 226, 160), Part.HEADLIGHT: (255, 250, 226), Part.TAILLIGHT: (230, 30, 24)}
# Surfaces with joints: their distance along and up (metres, 0 for none), their width and how dark they are.
JOINTS = {
    Part.PAVING: (0.9, 0.9, 0.05, 0.86), Part.BRICK: (0.5, 0.18, 0.035, 0.75), Part.WOOD: (0.17, 0, 0.03, 0.66),
    Part.CONCRETE: (3.0, 1.3, 0.07, 0.8), Part.TRACK: (0, 0.7, 0.28, 0.72), Part.CARGO: (0.6, 0, 0.05, 0.94),
}  # fmt: skip
# How much noise is on a surface: fine grain, and blotches of up to a metre or two.
GRAIN = {
    Part.ASPHALT: (0.1, 0.07), Part.GRASS: (0.16, 0.2), Part.FOLIAGE: (0.2, 0.4), Part.PAVING: (0.06, 0.08),
    Part.MARKING: (0.08, 0.08), Part.TRACK: (0.16, 0.1), Part.FACADE: (0.05, 0.06), Part.BRICK: (0.1, 0.1),
    Part.CONCRETE: (0.05, 0.12), Part.WOOD: (0.1, 0.1), Part.ROOF: (0.12, 0.1), Part.TRUNK: (0.2, 0.1),
    Part.TOP: (0.08, 0.0), Part.TROUSERS: (0.08, 0.0), Part.LEAVES: (0.3, 0.5), Part.TWIGS: (0.25, 0.2),
    Part.FRONT: (0.06, 0.08), Part.POSTER: (0.05, 0.5), Part.RED_LANE: (0.1, 0.1), Part.YELLOW_LINE: (0.12, 0.1),
}  # fmt: skip
# The colours that a surface can have; each object takes one of them, a little brighter or darker.
CLEAN: dict[Part, Sequence[Colour]] = {
    Part.ASPHALT: ((92, 92, 106),), Part.MARKING: ((240, 240, 236),), Part.PAVING: ((182, 170, 156),),
    Part.CURB: ((206, 200, 192),), Part.GRASS: ((116, 178, 66),), Part.TRACK: ((128, 118, 112),),
    Part.FACADE: ((222, 176, 122), (196, 100, 78), (234, 214, 172), (158, 176, 196), (206, 138, 102), (136, 150, 128),
                  (238, 230, 216), (178, 118, 128), (216, 196, 196), (150, 132, 120)),
    Part.TRIM: ((236, 230, 220), (134, 122, 114), (206, 190, 170)),
    Part.ROOF: ((172, 78, 58), (104, 94, 98), (132, 90, 68)), Part.CONCRETE: ((158, 156, 166),),
    Part.BRICK: ((164, 90, 72), (186, 160, 130)), Part.METAL: ((112, 120, 130),),
    Part.RAILING: ((56, 68, 76), (44, 84, 66)), Part.WOOD: ((168, 122, 76), (120, 86, 58), (206, 196, 178)),
    Part.FOLIAGE: ((72, 146, 52), (96, 160, 56), (54, 124, 60), (128, 164, 56)), Part.TRUNK: ((112, 82, 58),),
    Part.PAINT: ((206, 42, 42), (42, 84, 186), (242, 242, 242), (36, 38, 46), (160, 164, 172), (234, 184, 44),
                 (44, 126, 96), (112, 124, 148), (104, 28, 44), (236, 120, 44), (96, 170, 210)),
    Part.CARGO: ((240, 238, 232), (64, 104, 176), (206, 64, 54), (244, 204, 64), (94, 146, 96)),
    Part.COACH: ((246, 200, 40), (214, 52, 46), (64, 146, 206), (86, 166, 90)),
    Part.TRAM: ((206, 36, 52), (246, 226, 170), (40, 96, 150)), Part.GLASS: ((66, 92, 116),),
    Part.FRAME: ((44, 48, 58), (190, 44, 44), (34, 94, 170), (226, 226, 226), (40, 150, 120)),
    Part.TYRE: ((34, 34, 38),), Part.DARK: ((48, 50, 58),), Part.PLATE: ((244, 242, 232),),
    Part.HEADLIGHT: ((250, 246, 224),), Part.TAILLIGHT: ((198, 26, 28),),
    Part.TOP: ((220, 60, 60), (52, 98, 190), (238, 236, 230), (46, 48, 56), (240, 192, 60), (70, 150, 110),
               (150, 80, 160), (226, 132, 62), (120, 180, 214), (214, 130, 160)),
    Part.TROUSERS: ((46, 62, 106), (42, 42, 50), (126, 110, 90), (92, 106, 130), (180, 166, 140)),
    Part.SKIN: ((236, 188, 152), (156, 108, 80), (206, 156, 122)),
    Part.HAIR: ((54, 38, 30), (118, 80, 44), (32, 28, 30), (204, 170, 112)), Part.SIGN_WHITE: ((246, 246, 246),),
    Part.SIGN_RED: ((214, 34, 40),), Part.SIGN_BLUE: ((28, 92, 190),), Part.SIGN_YELLOW: ((250, 206, 40),),
    Part.LAMP: ((240, 236, 220),), Part.SIGNAL_OFF: ((30, 30, 32),),
    **{part: (colour,) for part, colour in SIGNALS.items()},
}  # fmt: skip
# Another city: surfaces that differ from those of the clean one.
WORN: dict[Part, Sequence[Colour]] = CLEAN | {
    Part.ASPHALT: ((140, 141, 145),), Part.MARKING: ((206, 202, 190),), Part.PAVING: ((120, 116, 116),),
    Part.CURB: ((146, 144, 140),), Part.GRASS: ((142, 142, 78),), Part.TRACK: ((98, 92, 88),),
    Part.FACADE: ((126, 98, 84), (158, 150, 140), (184, 170, 146), (118, 116, 118), (140, 78, 62), (204, 194, 174)),
    Part.TRIM: ((170, 164, 154), (92, 88, 86)), Part.ROOF: ((98, 64, 54), (70, 68, 72)), Part.TRUNK: ((82, 72, 62),),
    Part.FOLIAGE: ((70, 88, 46), (92, 102, 52), (56, 74, 46), (124, 112, 54)), Part.METAL: ((142, 142, 138),),
    Part.BRICK: ((120, 70, 58), (136, 126, 112)), Part.CONCRETE: ((136, 134, 126),),
    Part.WOOD: ((118, 104, 88), (84, 72, 62)),
    Part.PAINT: ((150, 30, 32), (36, 50, 84), (214, 214, 212), (30, 30, 32), (124, 126, 128), (168, 170, 172),
                 (60, 70, 66), (90, 96, 106)),
    Part.COACH: ((226, 224, 214), (146, 36, 40), (52, 104, 72)),
    Part.TRAM: ((228, 224, 206), (70, 110, 80), (120, 120, 126)),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """Light and camera of one domain; colours are 0 to 255, light is a factor of a surface's colour."""

    palette: dict[Part, Sequence[Colour]]
    sun: tuple[float, float, float]  # towards it, a unit vector; the camera looks along +z
    sunlight: Colour
    ambient: Colour
    haze: Colour
    haze_distance: float  # metres, at which half of the light is the haze's
    sky: tuple[Colour, Colour]  # at the horizon, high up
    cloud: Colour
    cover: float  # of clouds, 0 to 1
    shadow: float  # light that remains in an object's shadow
    lit: float = 0.0  # share of windows with light; above 0, lamps and the lights of vehicles are on too
    grain: float = 0.0  # noise of the camera, about +- this much
    dark: bool = False  # light comes from lamps and the own headlights
    wet: bool = False  # falling rain, a mirroring ground and pale colours
    tinted: bool = False  # by a camera with other filters and a softer lens


_GAME = Look(
    palette=CLEAN,
    sun=(-0.48, 0.72, -0.5),
    sunlight=(0.62, 0.58, 0.5),
    ambient=(0.5, 0.52, 0.58),
    haze=(186, 214, 240),
    haze_distance=420.0,
    sky=((196, 224, 246), (62, 132, 222)),
    cloud=(255, 255, 255),
    cover=0.35,
    shadow=0.52,
)
LOOKS = {
    "game": _GAME,
    "day": Look(
        palette=WORN,
        sun=(0.6, 0.62, -0.5),
        sunlight=(0.66, 0.6, 0.5),
        ambient=(0.5, 0.5, 0.52),
        haze=(214, 208, 194),
        haze_distance=260.0,
        sky=((240, 234, 218), (176, 192, 204)),
        cloud=(250, 248, 244),
        cover=0.7,
        shadow=0.62,
        grain=3.0,
    ),
    "night": Look(
        palette=CLEAN,
        sun=(0.0, 1.0, 0.0),
        sunlight=(0.03, 0.035, 0.06),
        ambient=(0.1, 0.12, 0.18),
        haze=(14, 17, 30),
        haze_distance=300.0,
        sky=((34, 34, 52), (7, 10, 24)),
        cloud=(30, 30, 42),
        cover=0.5,
        shadow=0.6,
        lit=0.4,
        grain=5.0,
        dark=True,
    ),
    "rain": Look(
        palette=WORN,
        sun=(0.0, 1.0, 0.0),
        sunlight=(0.2, 0.21, 0.22),
        ambient=(0.48, 0.5, 0.53),
        haze=(156, 162, 168),
        haze_distance=62.0,
        sky=((164, 169, 174), (128, 134, 142)),
        cloud=(116, 121, 129),
        cover=0.9,
        shadow=0.72,
        lit=0.12,
        grain=3.0,
        wet=True,
    ),
    "camera": replace(_GAME, grain=7.0, tinted=True),
}

# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the looks of varied streets have more: light and colours of each scene, house fronts, wear of all surfaces."""

from dataclasses import replace

import numpy as np

from .canvas import Draws, Part, Scene
from .noise import SMOOTH, WHITE, place
from .palette import SIGNALS, WORN, Colour, Look


# Colours that varied streets have more.
COLOURS: dict[Part, tuple[Colour, ...]] = {
    Part.TWIGS: ((84, 70, 60), (110, 96, 84), (62, 52, 44), (96, 86, 62)),
    Part.FRONT: ((120, 74, 58), (96, 66, 56), (150, 122, 84), (190, 178, 150), (110, 108, 104), (236, 232, 224)),
    Part.POSTER: ((30, 60, 120), (160, 30, 40), (236, 232, 220), (40, 90, 60), (24, 24, 28), (226, 170, 50)),
    Part.RED_LANE: ((140, 62, 54), (110, 60, 58), (70, 110, 76), (150, 84, 66)),
    Part.YELLOW_LINE: ((206, 176, 70),),
    Part.ASPHALT: ((80, 80, 84), (58, 59, 64), (112, 110, 108), (128, 128, 134)),
    Part.PAVING: ((150, 142, 134), (118, 116, 116), (170, 160, 146), (136, 112, 98), (98, 98, 102)),
    Part.GRASS: ((112, 128, 66), (96, 120, 58), (134, 122, 84), (84, 104, 52)),
}
ALIKE = {Part.LEAVES: Part.FOLIAGE, Part.FRONT: Part.FACADE}  # parts that also have the colours of another
# Parts that have the same colours in every scene.
KEPT = {*SIGNALS, Part.LAMP, Part.HEADLIGHT, Part.TAILLIGHT, Part.SIGN_RED, Part.SIGN_BLUE, Part.SIGN_YELLOW}


def vary(look: Look, draws: Draws) -> Look:
    """A look with light and colours of one scene: sun, haze, sky and exposure, and paler, darker or other surfaces."""
    pale, warm = draws(0.0, 0.75), draws(-0.12, 0.12)

    def other(colour: Colour, spread: float) -> Colour:
        grey, gain = sum(colour) / 3, draws(0.75, 1.18)
        tint = (1 + warm + draws(-spread, spread), 1.0, 1 - warm + draws(-spread, spread))
        r, g, b = (min(255.0, (c + (grey - c) * pale) * gain * t) for c, t in zip(colour, tint, strict=True))
        return r, g, b

    palette = {}
    for part in Part:
        options = [*look.palette.get(part, ()), *WORN.get(part, ())]
        if part in ALIKE:
            options += [*look.palette[ALIKE[part]], *WORN[ALIKE[part]]]
        options += COLOURS.get(part, ())
        if part in (Part.ASPHALT, Part.PAVING, Part.GRASS):  # few, so that a street has a colour of its own
            options = [draws.pick(options) for _ in range(2)]
        if options:
            palette[part] = options if part in KEPT else [other(colour, 0.06) for colour in options]
    clear = draws(0.25, 1.25)  # how much of the light is the sun's
    high, aside, ahead = draws(0.2, 1.2), draws(-1, 1), draws(-1, 0.6)
    length = np.sqrt(np.float32(high * high + aside * aside + ahead * ahead))
    sun = look.sun if look.dark or look.wet else tuple(float(v / length) for v in (aside, high, ahead))
    cast = [1 + warm * 0.8 + draws(-0.03, 0.03), 1.0, 1 - warm * 0.8]
    sky = draws.pick((0.0, 0.0, 0.5, 0.9)) * (0.0 if look.dark else 1.0)  # towards white
    whiten = [tuple(c + (max(colour) + 12 - c) * sky for c in colour) for colour in look.sky]
    return replace(
        look,
        palette=palette,
        sun=sun,
        sunlight=tuple(v * clear * c for v, c in zip(look.sunlight, cast, strict=True)),
        ambient=tuple(v * draws(0.95, 1.1) * (1.3 - 0.3 * clear) for v in look.ambient),
        haze_distance=look.haze_distance * draws(0.4, 2.5),
        sky=whiten,
        cover=draws(0.1, 0.95),
        shadow=draws(0.4, 0.8),
        grain=look.grain + draws(0.0, 6.0),
    )


def _part(tint: np.ndarray, factor: float) -> np.ndarray:
    """Another random number in [0, 1) from that of an object."""
    return (tint * np.float32(factor) % 1).astype(np.float32)


def wear(scene: Scene, image: np.ndarray, ground: np.ndarray, look: Look, draws: Draws) -> None:
    """Stains of all sizes on everything; on the ground also cracks, and the shadows of houses and trees beside it."""
    x, z, y = scene.x, scene.depth, scene.y
    u, v = np.where(ground, x, x + z), np.where(ground, z * np.float32(0.6), y)
    shift = draws(0, 256) + 65536.0
    light = np.ones(x.shape, np.float32)
    for frequency, strength in ((3.0, draws(0.05, 0.2)), (11.0, draws(0.03, 0.15)), (90.0, draws(0.02, 0.12))):
        noise = np.take(SMOOTH, place(u * frequency + shift, v * frequency + 4096.0))
        light += noise * np.float32(strength)
        if frequency == 11.0 and draws.chance(0.5):
            light[ground & (np.abs(noise) < 0.025) & (z < 25)] *= np.float32(0.72)  # cracks
    if not (look.dark or look.wet) and draws.chance(0.65):
        side, edge, frequency = draws.pick((-1.0, 1.0)), draws(-3, 7), draws.pick((2.0, 5.0, 16.0))
        rough = np.take(SMOOTH, place(x * draws(0, 2) + z * frequency + shift, x * frequency * 0.6 + 512.0))
        across = side * x + rough * draws(0.5, 5) - edge
        amount = np.clip(across * np.float32(3), 0, 1) * np.float32(1 - look.shadow)
        light *= 1 - amount * (ground | (y < 2.2) & (z > 4) & (across > 1))
    image *= np.maximum(light, np.float32(0.15))


def fronts(scene: Scene, where: np.ndarray, image: np.ndarray, look: Look) -> np.ndarray:
    """
    Windows, bricks, shop fronts and their signs on the pixels `where` of house fronts; returns the lit windows.

    Each front has its own measures, all from the random number of its building.
    """
    face = scene.faces.reshape(-1)[where]
    x, y, z = (each.reshape(-1)[where] for each in (scene.x, scene.y, scene.depth))
    u = np.where(np.take(np.abs(scene.normal[:, 0]) > np.abs(scene.normal[:, 2]), face), z, x)
    (u0, u1, y0, y1) = (np.take(column, face) for column in np.ascontiguousarray(scene.span.T))
    tint = scene.tint[face]
    r = [np.take(_part(scene.tint, factor), face) for factor in (3.7, 5.3, 7.1, 11.3, 13.9, 17.7, 23.1, 29.3)]
    base, storey, pitch = 0.1 + r[0], 2.5 + 1.4 * r[1], 1.1 + 3.4 * r[2] * r[2]
    shop = (r[3] > 0.4) & (y1 - y0 > 5)
    street = np.where(shop, 2.7 + 1.2 * r[4], base).astype(np.float32)  # the height where the windows begin
    count = np.maximum(np.floor((u1 - u0) / pitch), 1)
    across, up = (u - u0) / np.maximum(u1 - u0, 0.1) * count, (y - y0 - street) / storey
    column, floor = np.floor(across), np.floor(up)
    du, dv = np.abs(across - column - 0.5), np.abs(up - floor - np.float32(0.5))
    half_u, half_v = np.where(r[5] > 0.85, 0.6, 0.14 + 0.26 * r[5]), 0.18 + 0.26 * r[6]
    inside = (up > 0) & (y < y1 - 0.3)
    pane, frame = inside & (du < half_u) & (dv < half_v), inside & (du < half_u + 0.05) & (dv < half_v + 0.04)
    bar = pane & (r[7] > 0.4) & ((du < 0.02) | (dv < 0.02))
    below = shop & (up < 0)
    ground = y - y0
    sign = below & (ground > street - 0.75) & (ground < street - 0.1)
    post = (u * (0.35 + 0.6 * r[1])) % 1 < 0.07
    glazed = below & (ground > 0.15 + 0.5 * r[0]) & ~sign & (ground < street - 0.8) & ~post
    chance = np.take(WHITE, place(column * 7 + tint * 997, floor * 13 + 64))
    blur = np.take(SMOOTH, place(u * 9 + tint * 997 + 65536.0, y * 9 + 64.0))
    lit = (pane & (chance * 0.5 + 0.5 < look.lit)) | (glazed & (r[6] < look.lit * 1.6))
    letters = sign & (np.abs(ground - street + 0.42) < 0.16) & (np.take(WHITE, place(u * 5 + 65536.0, tint * 997)) > 0)
    course = np.abs(up - np.round(up)) < 0.04 * (r[4] > 0.5)
    brick = (r[5] > 0.5) & (z < 22) & (((y % 0.16) < 0.03) | (((u + np.floor(y / 0.16) * 0.13) % 0.26) < 0.03))
    wall_light = np.where(brick, 0.82, 1.0) * np.where(course, 1.15, 1.0) * (1 + 0.12 * blur)
    wall_light = (wall_light * np.clip(0.75 + 0.1 * ground, 0.75, 1)).astype(np.float32)
    reflecting = np.where(r[2] > 0.6, 0.5, 0.16) + 0.18 * chance + 0.22 * blur * r[7]
    board = np.where(r[6] > 0.5, 1.25, 0.35)
    for channel, plane in enumerate(image):
        wall = plane[where] * wall_light
        bright = np.float32(235 * look.ambient[channel])
        colour = np.where(r[0] > 0.5, wall * np.float32(0.6), bright)
        glass = np.clip(look.sky[0][channel] * reflecting, 6, 255)
        dark = (20 + 50 * r[4]) * look.ambient[channel] * (1 + 0.8 * blur)
        shade = _part(tint, 31.7 + 7 * channel)
        value = np.where(frame, colour, wall)
        value = np.where(pane & ~bar, glass, value)
        value = np.where(below, (30 + 190 * r[7] * shade) * look.ambient[channel], value)
        value = np.where(glazed, np.where(r[2] > 0.7, glass * 0.7, dark), value)
        value = np.where(sign, (0.2 + 0.8 * shade) * board * bright, value)
        value = np.where(letters, np.where(board > 1, 0.2, 0.95) * bright, value)
        warm = np.float32((250, 206, 130)[channel]) * (0.75 + 0.2 * chance)
        plane[where] = np.where(lit, warm, value).astype(np.float32)
    return where[lit]


def expose(image: np.ndarray, look: Look, draws: Draws) -> np.ndarray:
    """The light as one of many cameras takes it: contrast, exposure, white balance, a soft lens; float32 [3, H, W]."""
    gain = np.float32(draws(0.7, 1.4) if not look.dark else draws(0.8, 1.2))
    image = image * gain
    for plane in image:
        plane *= np.float32(draws(0.93, 1.07))
    contrast = np.float32(draws(-0.2, 0.6))  # a curve through 0, 128 and 255
    t = np.clip(image * np.float32(1 / 255), 0, 1)
    image = image + contrast * t * (1 - t) * (2 * t - 1) * 255
    if draws.chance(0.5):
        soft, amount = image.copy(), np.float32(draws(0.2, 0.9))
        soft[:, 1:-1] = (image[:, :-2] + 2 * image[:, 1:-1] + image[:, 2:]) * np.float32(0.25)
        wide = soft.copy()
        wide[:, :, 1:-1] = (soft[:, :, :-2] + 2 * soft[:, :, 1:-1] + soft[:, :, 2:]) * np.float32(0.25)
        image = image + (wide - image) * amount
    return image

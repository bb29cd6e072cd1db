# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""
How a procedural street scene looks in each domain: surfaces, light, weather and camera.

As in the geometry, no sine, power or exponential is taken: float32 sums, products, quotients and roots are rounded in
the same way everywhere, so that an image has the same bytes on every machine.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from .canvas import CAMERA_HEIGHT, Draws, Part, Scene
from .noise import SMOOTH, WHITE, place
from .palette import GRAIN, GROUND, JOINTS, LOOKS, SHINING, SIGNALS, Look
from .varied_look import expose, fronts, vary, wear


DOMAINS: tuple[str, ...] = tuple(LOOKS)


def _table(values: Mapping[Part, tuple[float, ...]], width: int) -> np.ndarray:
    """float32 [width, number of parts] from a row per part, 0 for the others."""
    table = np.zeros((width, len(Part)), np.float32)
    for part, row in values.items():
        table[:, part] = row
    return table


def _of_parts(parts: Iterable[Part]) -> np.ndarray:
    """bool [number of parts]: whether it is one of these."""
    return np.isin(np.arange(len(Part)), list(parts))


def _surface_colours(scene: Scene, look: Look) -> np.ndarray:
    """float32 [3, N]: what each surface sends to the camera under the sun and the sky."""
    options = np.array([len(look.palette.get(part, "-")) for part in Part], np.float32)
    first = np.concatenate([[0], np.cumsum(options)]).astype(np.int64)
    colours = np.array([colour for part in Part for colour in look.palette.get(part, ((0, 0, 0),))], np.float32).T
    choice = scene.tint * options[scene.part]
    colours = colours[:, first[scene.part] + choice.astype(np.int64)] * (0.88 + np.float32(0.24) * (choice % 1))
    x, y, z = scene.normal.T
    facing = np.maximum(x * look.sun[0] + y * look.sun[1] + z * look.sun[2], np.float32(0))
    for row, sun, sky in zip(colours, look.sunlight, look.ambient, strict=True):
        row *= facing * sun + (y * np.float32(0.14) + np.float32(0.86)) * sky
    for part, colour in SHINING.items():
        if look.lit or part in SIGNALS:
            colours[:, scene.part == part] = np.array(colour, np.float32)[:, None]
    return colours


def _surfaces(scene: Scene, faces: np.ndarray, part: np.ndarray, look: Look) -> tuple[np.ndarray, ...]:
    """The image without windows, weather and sky; which pixels are ground; the blotches on all surfaces."""
    ground = np.take(_of_parts(GROUND), part)
    # Along and up a surface; x + z runs along both the surfaces that face the street and those across it
    u, v = np.where(ground, scene.x, scene.x + scene.depth), np.where(ground, scene.depth, scene.y)
    near = np.minimum(np.float32(16) / scene.depth, np.float32(1))  # grain fades where a pixel is larger than it
    # 65536, which the tile does not notice, keeps places left of the camera above 0, so that they are rounded down too
    spot = place(u * 32 + 65536.0, v * 32)
    fine, coarse = (np.take(row[scene.part], faces) for row in _table(GRAIN, 2))
    blotches = np.take(SMOOTH, spot)
    light = 1 + np.take(WHITE, spot) * fine * near + blotches * coarse

    where = np.flatnonzero(np.take(_of_parts(JOINTS), part))
    along, up, wide, dark = np.take(_table(JOINTS, 4), part.reshape(-1)[where], axis=1)
    joint = np.zeros(where.shape, bool)
    for distance, period in ((u, along), (v, up)):
        joint |= (period > 0) & (distance.reshape(-1)[where] % np.maximum(period, np.float32(0.01)) < wide)
    light.reshape(-1)[where] *= np.where(joint, 1 + (dark - 1) * near.reshape(-1)[where], np.float32(1))
    light[scene.shadow & ground] *= np.float32(look.shadow)
    return np.stack([np.take(row, faces) for row in _surface_colours(scene, look)]) * light, ground, blotches


def _facades(scene: Scene, where: np.ndarray, image: np.ndarray, look: Look) -> np.ndarray:
    """Windows, doors and shops on the pixels `where` of buildings; returns which pixels are lit windows."""
    face, (x, y, z) = (
        scene.faces.reshape(-1)[where],
        (each.reshape(-1)[where] for each in (scene.x, scene.y, scene.depth)),
    )
    u = np.where(np.take(np.abs(scene.normal[:, 0]) > np.abs(scene.normal[:, 2]), face), z, x)
    (u0, u1, y0, _), tint = (np.take(column, face) for column in np.ascontiguousarray(scene.span.T)), scene.tint[face]
    count = np.floor((u1 - u0) / (np.float32(2.1) + tint * np.float32(1.5))) + 1
    across, up = (u - u0) / (u1 - u0) * count, (y - y0 - np.float32(0.6)) / np.float32(3.1)
    column, floor = np.floor(across), np.floor(up)
    du, dv = np.abs(across - column - np.float32(0.5)), np.abs(up - floor - np.float32(0.5))
    shop = (floor == 0) & (tint * 7 % 1 > 0.4)
    half_u, half_v = np.where(shop, np.float32(0.44), 0.16 + tint * 5 % 1 * np.float32(0.14)), np.where(shop, 0.36, 0.3)
    frame = (du < half_u + np.float32(0.05)) & (dv < half_v + np.float32(0.05)) & (up > 0)
    pane = (du < half_u) & (dv < half_v) & (up > 0)
    chance = np.take(WHITE, place(column * 7 + tint * 997, floor * 13 + 64))
    lit = pane & (chance * 0.5 + 0.5 < look.lit * np.where(shop, 1.6, 1.0))
    base = np.where(up < 0, np.float32(0.72), 0.8 + 0.2 * np.clip(up, 0, 1)).astype(np.float32)
    for channel, plane in enumerate(image):
        wall = plane[where] * base
        border = np.where(tint * 11 % 1 < 0.5, wall * np.float32(0.8), wall + np.float32(52 * look.ambient[channel]))
        wall = np.where(frame, border, wall)
        glass = (look.sky[0][channel] * (0.3 + 0.16 * dv + 0.12 * chance)).astype(np.float32)
        wall = np.where(pane, glass, wall)
        plane[where] = np.where(lit, np.float32((250, 206, 130)[channel]) * (0.75 + 0.2 * chance), wall)
    return where[lit]


def _sky(scene: Scene, where: np.ndarray, image: np.ndarray, look: Look, draws: Draws) -> None:
    """A gradient with clouds on a layer above the street."""
    height, width = scene.labels.shape
    row, column = where // width, where % width
    up = (scene.horizon - row.astype(np.float32)) / height
    rise = np.clip(up * np.float32(1.9), 0, 1).astype(np.float32)
    far = 1 / (np.maximum(up, 0) + np.float32(0.12))
    u, v = (column.astype(np.float32) - scene.vanishing) / height * far * 26, far * 30
    shift_u, shift_v = int(draws(0, 256)), int(draws(0, 256))
    cloud = np.take(SMOOTH, place(u + (shift_u + 65536.0), v + shift_v))
    cloud += np.take(SMOOTH, place(u * 3 + 65536.0, v * 3 + shift_u)) * np.float32(0.35)
    cloud = np.clip(cloud * np.float32(1.6) + np.float32(look.cover * 2 - 1), 0, 1) * (
        np.float32(0.35) + rise * np.float32(0.5)
    )
    for channel, plane in enumerate(image):
        low, high = (colour[channel] for colour in look.sky)
        blue = low + (high - low) * rise
        plane[where] = blue + (look.cloud[channel] - blue) * cloud


def _street_light(scene: Scene) -> np.ndarray:
    """float32 [H, W]: how much light of street lamps and of the own headlights falls on what is seen."""
    z = scene.depth
    reach = np.clip(1 - np.abs(scene.x) / (2 + z * np.float32(0.2)), 0, 1) * np.clip(2 - scene.y, 0.05, 1)
    light = reach * (np.float32(14) / (z + 9)) * np.float32(0.75)
    lamps = scene.lights[scene.lights[:, 3] == Part.LAMP]
    for x, y, depth in lamps[np.argsort(lamps[:, 2], kind="stable")][:6, :3].tolist():
        dx, dy, dz = scene.x - x, scene.y - y, z - depth
        fall = np.float32(46) / (dx * dx + dy * dy * np.float32(0.6) + dz * dz + np.float32(22))
        light += np.minimum(fall * fall, np.float32(0.9))
    return light


def _glow(scene: Scene, image: np.ndarray, strength: float) -> None:
    """Halos around the lights that nothing hides."""
    height, width = scene.labels.shape
    for x, y, z, kind in scene.lights.tolist():
        if z < 2 or z > 150:
            continue
        column = int((scene.vanishing + scene.focal * x / z) // 1)
        row = int((scene.horizon - scene.focal * (y - CAMERA_HEIGHT) / z) // 1)
        if not (0 <= row < height and 0 <= column < width) or scene.depth[row, column] < z - 0.6:
            continue
        radius = scene.focal * {Part.LAMP: 1.1, Part.HEADLIGHT: 0.75}.get(Part(int(kind)), 0.5) / (z * 0.75 + 4)
        top, left = max(0, int(row - radius)), max(0, int(column - radius))
        box = slice(top, int(row + radius) + 1), slice(left, int(column + radius) + 1)
        dy = np.arange(top, min(height, box[0].stop), dtype=np.float32)[:, None] - row
        dx = np.arange(left, min(width, box[1].stop), dtype=np.float32) - column
        halo = np.maximum(1 - (dx * dx + dy * dy) / np.float32(radius * radius + 1), 0)
        halo = halo * halo * halo * np.float32(strength)
        for channel, plane in enumerate(image):
            plane[box] += halo * SHINING[Part(int(kind))][channel]


def _reflect(scene: Scene, image: np.ndarray, ground: np.ndarray, noise: np.ndarray) -> None:
    """
    Wet ground as a level mirror that ripples break.

    What stands at a distance is mirrored at the row of its foot. Which distance is mirrored in a pixel is found by
    trying: first as if it were infinite, then with the distance of what was found there.
    """
    height, width = scene.labels.shape
    where = np.flatnonzero(ground)
    row, column = where // width, where % width
    ripple = noise.reshape(-1)[where]
    aside = np.clip(column + ripple * (height / 160), 0, width - 1).astype(np.int64)
    level = (2 * scene.horizon - row + ripple * (height / 80)).astype(np.float32)
    depth, mirrored = scene.depth.reshape(-1), aside
    for foot in (np.float32(0), np.float32(2 * scene.focal * CAMERA_HEIGHT)):
        found = foot / np.take(depth, mirrored) if foot else foot
        mirrored = np.clip(level + found, 0, height - 1).astype(np.int64) * width + aside
    share = np.clip(np.float32(0.36) + ripple * np.float32(0.22), 0.1, 0.6)
    for plane in image:
        flat = plane.reshape(-1)
        flat[where] += (np.take(flat, mirrored) - flat[where]) * share


def _streaks(image: np.ndarray, draws: Draws) -> None:
    """Falling drops, as short bright lines that all lean the same way."""
    _, height, width = image.shape
    count, length = height * width // 900, max(2, height // 20)
    raw = np.array([(draws(0, height), draws(0, width), draws(0.3, 1)) for _ in range(count)], np.float32)
    raw = raw.reshape(count, 3).T  # also of none, in an image that is smaller than a drop has room for
    step = np.arange(length, dtype=np.float32)
    keep = step < raw[2][:, None] * length
    rows = (raw[0][:, None] + step).astype(np.int64) % height
    columns = (raw[1][:, None] + step * np.float32(draws(-0.25, 0.25)) + width).astype(np.int64) % width
    image[:, rows[keep], columns[keep]] += np.float32(15)


def _develop(image: np.ndarray, look: Look, draws: Draws) -> np.ndarray:
    """What the camera makes of the light: uint8 [H, W, 3] from float32 [3, H, W]."""
    _, height, width = image.shape
    red, green, blue = image
    if look.tinted:
        soft = image.copy()
        soft[:, 1:-1] = (image[:, :-2] + 2 * image[:, 1:-1] + image[:, 2:]) * np.float32(0.25)
        if width > 2:
            soft = soft[:, :, 1:-1] * np.float32(0.5) + (soft[:, :, :-2] + soft[:, :, 2:]) * np.float32(0.25)
            soft = np.pad(soft, [(0, 0), (0, 0), (1, 1)], mode="edge")
        red, green, blue = soft
        dy = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / height
        dx = (np.arange(width, dtype=np.float32) - width / 2) / width
        vignette = (1 - (dx * dx + dy * dy) * np.float32(0.9)) * np.float32(draws(0.66, 0.74))
        image = np.stack(
            [
                (red * np.float32(0.7) + green * np.float32(0.22)) * vignette + 22,
                (green * np.float32(0.7) + blue * np.float32(0.18)) * vignette + 34,
                (blue * np.float32(0.72) + red * np.float32(0.16)) * vignette + 40,
            ]
        )
        image *= np.float32(1.4) - image * np.float32(0.4 / 255)  # a curve that lifts the middle
    elif look.wet:
        grey = (red + green + blue) * np.float32(1 / 3)
        image = grey + (image - grey) * np.float32(0.6)
    if look.grain:  # every row starts elsewhere in the noise
        noise = np.resize(WHITE * np.float32(look.grain), WHITE.size + width)
        starts = [int(draws(0, WHITE.size)) for _ in range(height)]
        image = image + np.stack([noise[start : start + width] for start in starts])
    pixels = np.empty((height, width, 3), np.uint8)
    for channel, plane in enumerate(image):
        pixels[..., channel] = np.clip(plane + np.float32(0.5), 0, 255).astype(np.uint8)
    return pixels


def render(scene: Scene, domain: str, seed: int) -> np.ndarray:
    """
    An image of a scene: uint8 RGB [H, W, 3].

    Args:
        domain (`str`): one of `DOMAINS`.
        seed (`int`): not negative; decides on clouds, exposure and the camera's noise, not on what the scene contains.
    """
    if domain not in LOOKS:
        raise ValueError(f"domain {domain!r} is none of {', '.join(DOMAINS)}")
    look, draws = LOOKS[domain], Draws(seed)
    if scene.varied:
        look = vary(look, draws)
    faces = scene.faces.astype(np.intp)
    part = np.take(scene.part, faces)
    image, ground, blotches = _surfaces(scene, faces, part, look)
    lit = _facades(scene, np.flatnonzero(part == Part.FACADE), image.reshape(3, -1), look)
    if scene.varied:
        lit = np.concatenate([lit, fronts(scene, np.flatnonzero(part == Part.FRONT), image.reshape(3, -1), look)])
        wear(scene, image, ground, look, draws)
    haze = scene.depth / (scene.depth + np.float32(look.haze_distance))
    if look.dark:
        shining = np.take(_of_parts(SHINING), part)
        shining.reshape(-1)[lit] = True
        light = np.where(shining, np.float32(0), _street_light(scene))
        haze *= ~shining
        for plane, gain in zip(image, (9.0, 6.9, 4.0), strict=True):
            plane += plane * light * np.float32(gain)
    for plane, colour in zip(image, look.haze, strict=True):
        plane += (colour - plane) * haze
    _sky(scene, np.flatnonzero(part == Part.SKY), image.reshape(3, -1), look, draws)
    if look.wet:
        _reflect(scene, image, ground & (part != Part.GRASS), blotches)
        _streaks(image, draws)
    if look.lit:
        _glow(scene, image, 0.8 if look.dark else 0.3)
    if scene.varied:
        image = expose(image, look, draws)
    return _develop(image * np.float32(draws(0.95, 1.05)), look, draws)

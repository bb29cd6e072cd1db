# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The canvas under the procedural streets: polygons of a world in metres become labels, surfaces and distances.

World coordinates are metres: x to the right of the camera, y above the road, z ahead. Everything is a convex polygon
in that world, projected by a pinhole camera and painted from the back to the front. Only IEEE additions, products,
quotients and integers are used, and corners are rounded to 1/64 pixel before pixels are compared with them, so that a
seed gives the same bytes on every machine.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from ...model.labels import CITYSCAPES_CLASSES
from .noise import SMOOTH


LABELS: dict[str, int] = {name: index for index, (name, _) in enumerate(CITYSCAPES_CLASSES)}
CAMERA_HEIGHT, FOCAL, NEAR, FAR = 1.4, 1.7, 1.0, 2000.0  # metres, but the focal length: image heights

Point = tuple[float, float, float]

Part = IntEnum(
    "Part",
    "SKY ASPHALT MARKING PAVING CURB GRASS TRACK FACADE TRIM ROOF CONCRETE BRICK METAL RAILING WOOD FOLIAGE TRUNK "
    "PAINT CARGO COACH TRAM FRAME GLASS TYRE DARK PLATE HEADLIGHT TAILLIGHT TOP TROUSERS SKIN HAIR SIGN_RED "
    "SIGN_BLUE SIGN_WHITE SIGN_YELLOW LAMP SIGNAL_RED SIGNAL_AMBER SIGNAL_GREEN SIGNAL_OFF SHADOW CLEAR "
    "LEAVES TWIGS FRONT POSTER RED_LANE YELLOW_LINE",  # of version 2; at the end, so that version 1 stays as it is
    start=0,
)


@dataclass(frozen=True)
class Scene:
    """
    What an image shows, without its colours. H and W are the image's size, N the number of visible surfaces.

    `labels` uint8 [H, W] of train ids; `faces` uint16 [H, W], the index of each pixel's surface in the tables below;
    `depth`, `x`, `y` float32 [H, W], the seen point's world coordinates (depth is z, at most FAR, which the sky has);
    `shadow` bool [H, W], ground that an object keeps the light from.
    `part` uint8 [N] of `Part`; `tint` float32 [N] in [0, 1), one random number per object; `normal` float32 [N, 3],
    unit vectors towards the camera; `span` float32 [N, 4] of facades and railings: first and last z (or x, of a
    surface across the street), lowest and highest y. `lights` float32 [M, 4]: x, y, z and `Part` of everything that
    shines at night.
    `focal`, `horizon` and `vanishing` are in pixels: the vanishing point of the street is (vanishing, horizon).
    `varied`: whether each scene has a light, colours and wear of its own, within its look (version 2).
    """

    labels: np.ndarray
    faces: np.ndarray
    depth: np.ndarray
    x: np.ndarray
    y: np.ndarray
    shadow: np.ndarray
    part: np.ndarray
    tint: np.ndarray
    normal: np.ndarray
    span: np.ndarray
    lights: np.ndarray
    focal: float
    horizon: float
    vanishing: float
    varied: bool = False


class Draws:
    """Random numbers from PCG64's raw stream: numpy promises to keep that one, but not its distributions."""

    def __init__(self, seed: int):
        self._raw = np.random.PCG64(seed).random_raw

    def __call__(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * (self._raw() >> 11) / 2**53

    def chance(self, probability: float) -> bool:
        return self() < probability

    def pick(self, options: Sequence):
        return options[int(self() * len(options))]


class Canvas:
    """Paints polygons into label and surface maps; later ones cover earlier ones."""

    def __init__(self, height: int, width: int, vanishing: float, horizon: float, focal: float = FOCAL):
        self.height, self.width, self.focal = height, width, focal * height
        self.vanishing, self.horizon = width / 2 + vanishing * height, horizon * height
        self.labels = np.full((height, width), LABELS["sky"], np.uint8)
        self.faces = np.zeros((height, width), np.uint16)
        self.shadow = np.zeros((height, width), bool)
        self.table: list[tuple] = [(int(Part.SKY), 0.0, (0.0, 0.0, -1.0), (0.0, 0.0, 1 / FAR), (0.0,) * 4)]
        self._labels, self._faces, self._shadow = (each.reshape(-1) for each in (self.labels, self.faces, self.shadow))

    def paint(self, points: list[Point], label: int, part: Part, tint: float, bend: Point | None) -> None:
        """A convex polygon, counter-clockwise to whom it faces; `bend` replaces its normal, for round things."""
        (px, py, pz), (qx, qy, qz), (rx, ry, rz) = points[:3]
        ax, ay, az, bx, by, bz = qx - px, qy - py, qz - pz, rx - px, ry - py, rz - pz
        nx, ny, nz = az * by - ay * bz, ax * bz - az * bx, ay * bx - ax * by
        offset = nx * px + ny * (py - CAMERA_HEIGHT) + nz * pz
        if offset >= -1e-9:  # it shows its back
            return
        sides, span = abs(nx) > abs(nz), (0.0,) * 4
        if part in (Part.FACADE, Part.RAILING, Part.FRONT):  # whose patterns begin and end with them
            along, heights = [p[2 if sides else 0] for p in points], [p[1] for p in points]
            span = min(along), max(along), min(heights), max(heights)
        if min([p[2] for p in points]) < NEAR:
            points = list(_clip(points))
            if not points:
                return
        focal, xs, ys = self.focal * 64, [], []
        for x, y, z in points:
            xs.append(int((self.vanishing * 64 + focal * x / z) // 1))
            ys.append(int((self.horizon * 64 - focal * (y - CAMERA_HEIGHT) / z) // 1))
        rows = self._rows_of(xs, ys)
        if not rows:
            return
        if part == Part.SHADOW:
            for start, stop in rows:
                self._shadow[start:stop] = True
            return
        ragged = part in (Part.LEAVES, Part.TWIGS)
        if ragged:
            self._crown(rows, points, label, part, tint)
        else:
            for start, stop in rows:
                self._labels[start:stop] = label
        if part == Part.CLEAR:
            return
        scale = 1 / (offset * self.focal)
        plane = (nx * scale, -ny * scale, nz / offset)
        index = len(self.table)
        if part == Part.RAILING:
            for start, stop in rows:
                self._faces[start:stop][self._bars(start, stop, plane, span, sides)] = index
        elif not ragged:
            for start, stop in rows:
                self._faces[start:stop] = index
        nx, ny, nz = bend or (nx, ny, nz)
        length = math.sqrt(nx * nx + ny * ny + nz * nz)
        self.table.append((int(part), tint, (nx / length, ny / length, nz / length), plane, span))

    def _rows_of(self, xs: list[int], ys: list[int]) -> list[tuple[int, int]]:
        """
        The pixels whose centres are in a convex polygon with corners in 1/64 pixel, as ranges of the flat image.

        Two polygons that share an edge share no pixel and leave none out: both compute it with the same integers.
        """
        height, width = self.height, self.width
        top, bottom = max(0, (min(ys) + 31) // 64), min(height, (max(ys) + 31) // 64)
        first, last = max(0, (min(xs) + 31) // 64), min(width, (max(xs) + 31) // 64)
        if top >= bottom or first >= last:
            return []
        left, right = [width] * (bottom - top), [0] * (bottom - top)
        for x0, y0, x1, y1 in zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1], strict=True):
            bounds = left if y1 > y0 else right
            if y1 < y0:
                x0, y0, x1, y1 = x1, y1, x0, y0
            first, last = max(top, (y0 + 31) // 64), min(bottom, (y1 + 31) // 64)
            if first < last:  # the first column whose centre is not left of the edge
                rise, run = y1 - y0, x0 - x1
                start = (64 * first + 32 - y0) * run + (32 - x0) * rise
                if run:
                    stop, divisor = start + 64 * run * (last - first), 64 * rise
                    bounds[first - top : last - top] = [-(n // divisor) for n in range(start, stop, 64 * run)]
                else:
                    bounds[first - top : last - top] = [-(start // (64 * rise))] * (last - first)
        spans = zip(range(top * width, bottom * width, width), left, right, strict=True)
        return [(row + max(a, 0), row + min(b, width)) for row, a, b in spans if a < b and b > 0 and a < width]

    def _bars(self, start: int, stop: int, plane: Point, span: tuple[float, ...], sides: bool) -> np.ndarray:
        """Which pixels of a range are a railing's bars: its gaps have its label, but show what is behind."""
        row, column = divmod(start, self.width)
        dx = np.arange(column, column + stop - start) + (0.5 - self.vanishing)
        dy = row + 0.5 - self.horizon
        z = 1 / np.clip(plane[0] * dx + (plane[1] * dy + plane[2]), 1 / FAR, 1)
        along, y = z if sides else z * dx / self.focal, CAMERA_HEIGHT - z * dy / self.focal
        rails = (y > span[3] - 0.09) | ((y > span[2] + 0.15) & (y < span[2] + 0.22))
        return rails | (along * 6 % 1 < 0.25) | (along % 2.5 < 0.1)

    def _crown(self, rows: list[tuple[int, int]], points: list[Point], label: int, part: Part, tint: float) -> None:
        """Leaves or twigs in a polygon across the view: a ragged outline, and gaps that show what is behind."""
        first, width = rows[0][0] // self.width, self.width
        bounds = np.array(rows) - np.arange(first, first + len(rows))[:, None] * width
        left, right = int(bounds[:, 0].min()), int(bounds[:, 1].max())
        columns, lines = np.arange(left, right), np.arange(first, first + len(rows))
        xs, ys, z = [p[0] for p in points], [p[1] for p in points], points[0][2]
        x = (columns + (0.5 - self.vanishing)) * (z / self.focal)
        y = CAMERA_HEIGHT - (lines + (0.5 - self.horizon)) * (z / self.focal)
        middle, half = (min(xs) + max(xs)) / 2, (max(xs) - min(xs)) / 2
        centre, high = (min(ys) + max(ys)) / 2, (max(ys) - min(ys)) / 2
        du, dv = (x - middle) / half, (y - centre) / high
        rim = 1 - du * du - (dv * dv)[:, None]
        tile, shift = SMOOTH.reshape(256, 256), tint * 4096

        def noise(frequency: float) -> np.ndarray:
            u, v = ((each * frequency + shift + 65536).astype(np.int64) & 255 for each in (x, y))
            return tile[v[:, None], u]

        inside = (columns >= bounds[:, :1]) & (columns < bounds[:, 1:]) & (rim * 1.3 + noise(14.0) > 0.1)
        box = slice(first, first + len(rows)), slice(left, right)
        self.labels[box][inside] = label
        # Twigs are the lines along which the noise is about 0
        full = (
            np.abs(noise(110.0)) < 0.1 + 0.12 * (tint * 7 % 1) if part == Part.TWIGS else noise(52.0) > -0.9 * rim - 0.1
        )
        self.faces[box][inside & full] = len(self.table)

    def scene(self, lights: list[tuple[float, ...]], varied: bool = False) -> Scene:
        part, tint, normal, planes, span = zip(*self.table, strict=True)
        planes = np.array(planes, np.float32)
        dx = (np.arange(self.width) + (0.5 - self.vanishing)).astype(np.float32)
        dy = (np.arange(self.height) + (0.5 - self.horizon)).astype(np.float32)[:, None]
        index = self.faces.astype(np.intp)
        kx, ky, k = (np.take(np.ascontiguousarray(planes[:, i]), index) for i in range(3))
        depth = 1 / np.clip(kx * dx + ky * dy + k, np.float32(1 / FAR), np.float32(1 / NEAR))
        x, y = depth * (dx / np.float32(self.focal)), CAMERA_HEIGHT - depth * (dy / np.float32(self.focal))
        tables = np.array(part, np.uint8), *(np.array(table, np.float32) for table in (tint, normal, span))
        lights = np.array(lights, np.float32).reshape(-1, 4)
        camera = self.focal, self.horizon, self.vanishing
        return Scene(self.labels, self.faces, depth, x, y, self.shadow, *tables, lights, *camera, varied)


def _clip(points: list[Point]) -> Iterator[Point]:
    """The part of a polygon in front of the camera."""
    for (x0, y0, z0), (x1, y1, z1) in zip(points, points[1:] + points[:1], strict=True):
        if z0 >= NEAR:
            yield x0, y0, z0
        if (z0 >= NEAR) != (z1 >= NEAR):
            t = (NEAR - z0) / (z1 - z0)
            yield x0 + t * (x1 - x0), y0 + t * (y1 - y0), NEAR

# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The lie of the land of a varied street: its bends, slopes and width, and from where the camera sees it."""

from collections.abc import Sequence

from .canvas import CAMERA_HEIGHT, Canvas, Draws, Part, Point, Scene
from .things import Things


KNOTS = (0.0, 9.0, 16.0, 25.0, 36.0, 50.0, 68.0, 90.0, 120.0, 160.0)  # metres: where a slab of the street begins
LONG = 4.0  # metres along the street; longer faces are cut at the knots, shorter ones go with their thing's place


class Land:
    """
    A straight and level street, bent and tilted: in each slab between two knots everything is shifted and sheared.

    A shear keeps planes flat, shapes convex and the order of distances, and at the knots the slabs meet. The land only
    ever rises more steeply with the distance, so that no ground hides other ground. Half of the streets are mirrored.
    """

    def __init__(self, draws: Draws):
        self.mirror = draws.pick((-1.0, 1.0))
        self.width, aside, height = draws(0.85, 1.12), draws(-0.7, 0.7), draws(1.1, 2.1)
        bend = draws.pick((0.0, 0.3, 0.6, 1.0)) * draws(-0.012, 0.012)
        begin, slope, climb = draws(0, 30), 0.0, draws.pick((0.0, 0.0, 1.0)) * draws(0.0, 0.0014)
        x, y, aim = aside, CAMERA_HEIGHT - height, 0.0
        self.slabs = []
        for first, last in zip(KNOTS, (*KNOTS[1:], 1e9), strict=True):
            self.slabs.append((first, last, x, aim, y, slope))
            long = last - first if last < 1e9 else 0.0
            x, y = x + aim * long, y + slope * long
            if first >= begin:
                aim, slope = aim + bend * long, slope + climb * long

    def slab(self, z: float) -> int:
        return sum(z >= first for first in KNOTS[1:])

    def moved(self, point: Point, slab: int) -> Point:
        first, _, x0, aim, y0, slope = self.slabs[slab]
        x, y, z = point
        return self.mirror * (x * self.width + x0 + aim * (z - first)), y + y0 + slope * (z - first), z

    def paint(self, things: Things, canvas: Canvas) -> Scene:
        """What `things` has collected: first all ground, then slab by slab the rest, from the back to the front."""
        slabs: list[list[tuple]] = [[] for _ in KNOTS]
        for place, groups in things.things:
            own = self.slab(-place[2])
            ground = place[0] == -9.0
            pieces: dict[int, list] = {}
            for distance, faces in groups:
                for points, *rest in faces:
                    depths = [p[2] for p in points]
                    near, far = (self.slab(depths[0]),) * 2 if ground else (own, own)
                    if max(depths) - min(depths) > LONG:
                        near, far = self.slab(min(depths)), self.slab(max(depths) - 1e-9)
                    for slab in range(near, far + 1):
                        cut = points if near == far else _between(points, *self.slabs[slab][:2])
                        if len(cut) > 2:
                            pieces.setdefault(slab, []).append((distance, cut, *rest))
            for slab, faces in pieces.items():
                slabs[slab].append((place, faces))
        for grounds in (True, False):
            for slab in reversed(range(len(slabs))):
                for place, faces in sorted(slabs[slab], key=lambda thing: thing[0]):
                    if (place[0] == -9.0) == grounds:
                        self._faces(sorted(faces, key=lambda face: face[0]), slab, canvas)
        lights = [(*self.moved((x, y, z), self.slab(z)), part) for x, y, z, part in things.lights]
        return canvas.scene(lights, varied=True)

    def _faces(self, faces: Sequence[tuple], slab: int, canvas: Canvas) -> None:
        for _, points, label, part, tint, bend in faces:
            moved = [self.moved(point, slab) for point in points]
            if self.mirror < 0:
                moved.reverse()
                bend = bend and (-bend[0], *bend[1:])
            canvas.paint(moved, label, Part(part), tint, bend)


def _between(points: Sequence[Point], low: float, high: float) -> list[Point]:
    """The part of a polygon whose z is from `low` to `high`."""
    for sign, limit in ((1, low), (-1, -high)):
        kept = []
        for (x0, y0, z0), (x1, y1, z1) in zip(points, [*points[1:], *points[:1]], strict=True):
            inside, then = z0 * sign >= limit, z1 * sign >= limit
            if inside:
                kept.append((x0, y0, z0))
            if inside != then:
                t = (sign * limit - z0) / (z1 - z0)
                kept.append((x0 + t * (x1 - x0), y0 + t * (y1 - y0), sign * limit))
        points = kept
    return points

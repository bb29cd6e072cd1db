# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Where things are in a procedural street scene: from a seed to a street and its traffic."""

from collections.abc import Iterator

from .canvas import Canvas, Part, Scene
from .land import Land
from .sides import Sides
from .things import AWAY, KERB, LEFT, OBLIQUE, RIGHT, TOWARD
from .variety import VariedThings


# The version that is drawn if none is asked for. A version is part of what identifies a dataset: a change of any
# seed's label map makes a new one.
STREETS_VERSION = 1


class _Street(Sides):
    """A whole street: its ground and traffic, and the sides that its plan has."""

    def build(self) -> None:
        self.ground()
        self.skyline()
        if self.median:
            self.island()
        for x, heading in self.lanes:
            self.lane(x, heading)
        for side in (-1, 1):
            if self.parking[side]:
                self.parked(side)
            self.frontage(side)
            if self.walks[side]:
                self.pavement(side)
            else:
                self.verge(side)
        if self.layout == "crossing":
            self.junction()

    # The ground

    def ground(self) -> None:
        end, far = self.end, 900.0
        green = self.layout in ("highway", "park") or self.draws.chance(0.25)
        self.flat("terrain" if green else "sidewalk", -far, far, 1, far, Part.GRASS if green else Part.PAVING)
        self.flat("road", -self.kerbs[-1], self.kerbs[1], 1, end if self.layout != "highway" else far, Part.ASPHALT)
        for side in (-1, 1):
            kerb, parking = side * self.kerbs[side], side * (self.kerbs[side] + self.parking[side])
            for first, last in self.stretches():
                if self.walks[side]:
                    self.flat("road", min(kerb, parking), max(kerb, parking), first, last, Part.ASPHALT)
                    edge = parking + side * self.walks[side]
                    self.flat("sidewalk", *sorted((parking, edge)), first, last, Part.PAVING, KERB)
                    self.flat("sidewalk", *sorted((parking, parking + side * 0.25)), first, last, Part.CURB, KERB)
                    pair = [(parking, 0, first), (parking, 0, last), (parking, KERB, last), (parking, KERB, first)]
                    self.face(pair if side < 0 else pair[::-1], Part.CURB)
                    if self.parking[side]:
                        self.flat("road", kerb - 0.06, kerb + 0.06, first, last, Part.MARKING)
                else:
                    self.flat("road", kerb - 0.45, kerb - 0.27, first, last, Part.MARKING)
        for (x, heading), (other, back) in zip(self.lanes, self.lanes[1:], strict=False):
            if heading == back:
                line = (x + other) / 2
                for z in self.dashes():
                    self.flat("road", line - 0.07, line + 0.07, z, z + 3.5, Part.MARKING)
            elif not self.median:
                for z in self.dashes():
                    self.flat("road", self.middle - 0.07, self.middle + 0.07, z, z + 4.5, Part.MARKING)

    def dashes(self) -> Iterator[float]:
        for first, last in self.stretches():
            for i in range(int((min(last, 100) - first) / 8)):
                yield first + 2 + 8 * i

    def island(self) -> None:
        """Between the two directions: a tram's track, a barrier or a guard rail, or grass with trees."""
        left, right, draws = self.middle - self.median, self.middle, self.draws
        centre = (left + right) / 2
        trees = draws.chance(0.6)
        for first, last in self.stretches():
            if self.tram:
                grassy = draws.chance(0.4)
                label, part = ("terrain", Part.GRASS) if grassy else ("road", Part.TRACK)
                self.flat(label, left + 0.2, right - 0.2, first, last, part)
                for rail in (-0.72, 0.72):
                    self.flat("road", centre + rail - 0.05, centre + rail + 0.05, first, last, Part.METAL)
            else:
                self.flat("terrain", left + 0.25, right - 0.25, first, last, Part.GRASS, KERB)
                pair = [(right - 0.25, 0, last), (right - 0.25, 0, first), (right - 0.25, KERB, first)]
                self.face([*pair, (right - 0.25, KERB, last)][::-1], Part.CURB, "sidewalk")
        if self.tram:
            for z in self.spots(60, 120, 22):
                self.coach("train", centre, z, draws.pick((AWAY, TOWARD)))
        elif self.layout == "highway":
            self.rail(centre, draws.chance(0.5))
        elif trees:
            for z in self.spots(9, 16):
                self.tree(centre, z)

    def rail(self, x: float, solid: bool) -> None:
        """A concrete barrier (wall) or a guard rail (fence) along the street."""
        for z in range(3, int(min(self.end, 200)), 6):
            if solid:
                self.block("wall", x - 0.2, x + 0.2, z, z + 6, 0, 0.95, Part.CONCRETE, abs(x))
            else:
                self.block("fence", x - 0.06, x + 0.06, z, z + 0.12, 0, 0.75, Part.METAL, abs(x))
                self.prism([(0, 0.45), (6, 0.45), (6, 0.78), (0, 0.78)], x - 0.09, x + 0.09, Part.METAL)

    # Traffic

    def vehicle(self, x: float, z: float, heading, band: float) -> float:
        kind = self.draws()
        if kind < 0.68:
            return self.car(x, z, heading, band)
        if kind < 0.77:
            return self.truck(x, z, heading, band)
        if kind < 0.84:
            return self.coach("bus", x, z, heading, band)
        bicycle = kind < 0.93 and self.layout != "highway"
        return self.cycle("bicycle" if bicycle else "motorcycle", x, z, heading, ridden=True, band=band)

    def lane(self, x: float, heading) -> None:
        draws, clear = self.draws, 11.0 if x == 0 else 5.0
        gap = 55 if self.layout == "highway" else 34
        for z in self.spots(13, 13 + gap * (1 - self.density), 7):
            if z > clear + 2 and draws.chance(0.4 + 0.6 * self.density):
                self.vehicle(x + draws(-0.35, 0.35), z, heading, abs(x))

    def parked(self, side: int) -> None:
        band, draws = self.kerbs[side] + 1.2, self.draws
        for z in self.spots(5.2, 7.5, 3):
            if draws.chance(0.3 + 0.5 * self.density) and z < 110:
                heading = AWAY if side > 0 else TOWARD
                if draws.chance(0.88):
                    self.car(side * band, z, heading)
                else:
                    self.cycle(draws.pick(("bicycle", "motorcycle")), side * band, z, draws.pick(OBLIQUE))

    def junction(self) -> None:
        """The street across: its road, the crosswalk, traffic lights, and who crosses."""
        draws, (first, last), far = self.draws, self.crossing, 400.0
        self.flat("road", -far, far, first - 2.5, last + 2.5, Part.ASPHALT)
        for side in (-1, 1):
            corner = side * (self.kerbs[side] + self.parking[side])
            for low, high in ((first - 2.5, first), (last, last + 2.5)):
                self.flat("sidewalk", *sorted((corner, side * far)), low, high, Part.PAVING, KERB)
        across = -self.kerbs[-1], self.kerbs[1]
        for x in range(int(across[0]), int(across[1])):
            self.flat("road", x, x + 0.5, first - 2, first + 1, Part.MARKING)
        self.flat("road", self.middle, across[1], first - 4, first - 3.5, Part.MARKING)
        state = draws.pick((0, 0, 1, 2))
        for side in (-1, 1):
            x = self.kerbs[side] + self.parking[side] + 0.5
            for z, shown in ((first - 3, state), (last + 3.2, state)):
                high = draws.pick((3.2, 5.6))
                self.pole(side * x, z, high, half=0.07)
                self.signal(side * x, 2.2, z - 0.2, shown, band=x - 0.1)
                if high > 4:
                    self.begin("pole", side * x, z, base=KERB, band=x - 0.2)
                    self.prism([(-0.05, high - 0.1), (0.05, high - 0.1), (0.05, high), (-0.05, high)],
                               *sorted((0, -side * 3.4)), Part.METAL)  # fmt: skip
                    self.signal(side * (x - 3.2), high - 0.8, z - 0.2, shown, band=x - 0.3)
        middle = (first + last) / 2
        for x in range(-45, 46, 13):
            if draws.chance(self.density):
                heading = draws.pick((LEFT, RIGHT))
                self.vehicle(x + draws(-2, 2), middle + (2.2 if heading is RIGHT else -1.2), heading, 0)
        for _ in range(int(draws(0, 2 + 6 * self.density))):
            x = draws(-self.kerbs[-1], self.kerbs[1])
            self.person(x, first + draws(0.1, 0.9), draws.pick((LEFT, RIGHT)), 0.0)


class _VariedStreet(VariedThings, _Street):
    """Version 2: things of many shapes on land that bends and rises, seen by a camera of any height and lens."""

    def __init__(self, seed: int):
        super().__init__(seed)
        draws = self.draws
        self.walks = {side: walk and walk * draws(0.7, 1.6) for side, walk in self.walks.items()}
        self.horizon, self.vanishing, self.focal = draws(0.36, 0.56), draws(-0.3, 0.3), draws(1.0, 1.9)
        self.land = Land(draws)

    def ground(self) -> None:
        super().ground()
        self.markings()
        for side in (-1, 1):
            if self.walks[side]:
                self.plots(side)
            self.clutter(side)

    def paint(self, canvas: Canvas) -> Scene:
        return self.land.paint(self, canvas)


VERSIONS = {1: _Street, 2: _VariedStreet}


def draw_scene(seed: int, height: int, width: int, version: int = STREETS_VERSION) -> Scene:
    """
    The scene of a seed, seen at a size; another size of the same shape shows the same scene.

    Args:
        seed (`int`): not negative.
        height, width (`int`): in pixels. The field of view follows the height: a wider image shows more at its sides.
        version (`int`): one of `VERSIONS`: 1, or 2 with more variety of shapes, layouts, textures and light.
    """
    street = VERSIONS[version](seed)
    street.build()
    return street.paint(Canvas(height, width, street.vanishing, street.horizon, street.focal))

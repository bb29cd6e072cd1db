# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The plan of a procedural street, and its sides: sidewalks with their people, verges, buildings, parks, railways."""

from collections.abc import Iterator

from .canvas import FOCAL, Part
from .things import AWAY, KERB, LEFT, OBLIQUE, RIGHT, TOWARD
from .traffic import Traffic


LAYOUTS = ("street", "street", "crossing", "crossing", "highway", "park", "plaza")
LANE = 3.5


class Sides(Traffic):
    """
    The cross-section of a street along z and what stands on its sides.

    The camera is over the middle of one of the lanes (x = 0); traffic keeps to the right. Sides are -1 and 1.
    """

    layouts, focal = LAYOUTS, FOCAL

    def __init__(self, seed: int):
        super().__init__(seed)
        draws = self.draws
        self.layout = draws.pick(self.layouts)
        highway = self.layout == "highway"
        self.density = draws.pick((0.25, 0.5, 0.8))
        self.end = draws(260, 400) if highway else draws(75, 190)
        if self.layout == "crossing":
            first = draws(17, 34)
            self.crossing = (first, first + draws.pick((8.0, 11.0, 14.0)))
        lanes = draws.pick((2, 3, 3)) if highway else draws.pick((1, 1, 2))
        ours = int(draws(0, lanes))  # lanes between the camera and the middle of the street
        theirs = lanes if highway else draws.pick((1, 1, 2))
        self.tram = not highway and draws.chance(0.16)
        self.median = 3.0 if highway else 3.6 if self.tram else draws.pick((0.0, 0.0, 0.0, 2.4))
        self.middle = -LANE * (ours + 0.5)
        self.parking = {side: 2.3 if not highway and draws.chance(0.6) else 0.0 for side in (-1, 1)}
        self.lanes = [(LANE * (i - ours), AWAY) for i in range(lanes)]
        self.lanes += [(self.middle - self.median - LANE * (i + 0.5), TOWARD) for i in range(theirs)]
        self.kerbs = {1: LANE * (lanes - ours - 0.5), -1: -self.middle + self.median + LANE * theirs}  # |x|
        self.walks = {side: 0.0 if highway else draws(2.5, 5.0) for side in (-1, 1)}
        if self.layout == "plaza":
            self.walks[draws.pick((-1, 1))] = draws(10, 18)
        self.horizon, self.vanishing = draws(0.4, 0.52), draws(-0.14, 0.14)  # pitch and yaw

    def stretches(self) -> Iterator[tuple[float, float]]:
        """The parts of the street (first and last z) before and behind the crossing, with its corners."""
        first, last = self.crossing
        if first > self.end:
            yield 3.0, self.end
        else:
            yield 3.0, first - 2.5
            yield last + 2.5, self.end

    def spots(self, low: float, high: float, margin: float = 0.0, limit: float = 120.0) -> Iterator[float]:
        """Places along the street at random distances between `low` and `high`, none at the crossing."""
        for first, last in self.stretches():
            z = first + margin + self.draws(0, high)
            while z < min(last - margin, limit):
                yield z
                z += self.draws(low, high)

    # The sides

    def pavement(self, side: int) -> None:
        """People and furniture on the sidewalk."""
        draws, near = self.draws, self.kerbs[side] + self.parking[side]
        width, trees = self.walks[side], draws.chance(0.5)
        edge = near + 0.6
        for z in self.spots(22, 32):
            self.lamp_post(side * edge, z)
        for z in self.spots(14, 55):
            self.sign(side * (edge + 0.1), z, band=edge)
        if trees:
            for z in self.spots(7, 15):
                self.tree(side * (edge + 0.5), z, band=edge)
        if self.layout != "crossing" and draws.chance(0.25):
            z = draws(20, 60)
            self.pole(side * edge, z, 3.2, half=0.07)
            self.signal(side * edge, 2.2, z - 0.2, draws.pick((0, 1, 2)), band=edge)
        for z in self.spots(3, 26 - 20 * self.density):
            x = draws(near + 0.9, near + width - 0.4)
            self.person(side * x, z, draws.pick((AWAY, TOWARD, TOWARD, LEFT, RIGHT, *OBLIQUE)), band=round(x))
        for z in self.spots(18, 60):
            for place in range(int(draws(1, 5))):
                kind = draws.pick(("bicycle", "bicycle", "bicycle", "motorcycle"))
                self.cycle(kind, side * (near + 1.2), z + 0.8 * place, draws.pick(OBLIQUE), KERB, band=near + 1)

    def verge(self, side: int) -> None:
        """The side of a highway: a guard rail or nothing, masts and large signs."""
        draws, edge = self.draws, self.kerbs[side] + 0.8
        if draws.chance(0.7):
            self.rail(side * edge, draws.chance(0.25))
        if draws.chance(0.6):
            for z in self.spots(35, 45):
                self.lamp_post(side * (edge + 0.6), z, 0)
        for z in self.spots(50, 130, 10):
            self.sign(side * (edge + 0.7), z, 0)
        if side > 0 and draws.chance(0.5):
            z, left, right = draws(35, 90), self.middle, edge + 1
            for x in (left - self.median / 2, right):
                self.pole(x, z, 7.5, 0, 0.15)
            self.begin("pole", 0, z, band=edge + 0.9)
            self.prism([(-0.1, 6.6), (0.1, 6.6), (0.1, 6.9), (-0.1, 6.9)], left, right, Part.METAL)
            for x in range(int(left) + 1, int(right) - 2, 4):
                self.begin("traffic sign", x, z, band=edge + 0.8)
                self.prism([(-0.3, 5.6), (-0.2, 5.6), (-0.2, 7.8), (-0.3, 7.8)], 0, 3.2, Part.SIGN_BLUE)
                for y in (6.2, 7.0):
                    self.strip((-0.31, y + 0.25), (-0.31, y), 0.4, draws(1.6, 2.8), Part.SIGN_WHITE)

    def frontage(self, side: int) -> None:
        """What stands behind the sidewalk or verge."""
        draws = self.draws
        x = self.kerbs[side] + self.parking[side] + self.walks[side]
        kinds = {"highway": ("noise", "embankment", "open", "open"), "park": ("park", "houses")}
        kinds = kinds.get(self.layout, ("city", "city", "city", "houses", "park"))
        kind = ("park" if side > 0 else draws.pick(("city", "houses"))) if self.layout == "park" else draws.pick(kinds)
        if kind in ("city", "houses"):
            self.rows(side, x, kind == "houses")
            return
        if kind == "embankment":
            for first, last in self.stretches():
                self.bank(side, x + 3, first, last)
            return
        self.enclosure(side, x + 0.3 if kind == "park" else x + 3.5, kind)
        for z in self.spots(4, 9):
            away = x + draws(3, 22) + (3.5 if kind != "park" else 0)
            self.tree(side * away, z, 0, band=away, wild=True)
        if kind != "park":
            return
        for z in self.spots(8, 20):
            away = x + draws(2, 12)
            self.person(side * away, z, draws.pick((LEFT, RIGHT, AWAY)), 0, band=away)

    def enclosure(self, side: int, x: float, kind: str) -> None:
        """A wall, hedge or fence along the street, in pieces so that what it hides can be told from what hides it."""
        draws = self.draws
        style = "noise" if kind == "noise" else draws.pick(("hedge", "railing", "brick", "wood", "none", "none"))
        label, part, high = {
            "noise": ("wall", Part.CONCRETE, draws(2.4, 4.5)), "hedge": ("vegetation", Part.FOLIAGE, draws(0.8, 1.8)),
            "railing": ("fence", Part.RAILING, draws(1.1, 1.9)), "brick": ("wall", Part.BRICK, draws(1.0, 2.6)),
            "wood": ("fence", Part.WOOD, draws(1.1, 1.9)), "none": (None, None, 0),
        }[style]  # fmt: skip
        thick = {"hedge": 0.8, "railing": 0.04, "wood": 0.06}.get(style, 0.25)
        foot = KERB if self.walks[side] else 0.0
        for first, last in self.stretches() if label else ():
            z = first
            while z < last:
                stop = min(last, z + 10)
                near, far = sorted((side * x, side * (x + thick)))
                self.block(label, near, far, z, stop, foot, foot + high, part, x)
                z = stop

    def rows(self, side: int, x: float, houses: bool) -> None:
        """Buildings in a row: city blocks, or houses behind gardens."""
        draws = self.draws
        garden = draws(3, 7) if houses else 0.0
        if houses:
            for first, last in self.stretches():
                self.flat("terrain", *sorted((side * x, side * (x + garden + 14))), first, last, Part.GRASS, KERB)
            self.enclosure(side, x + 0.1, "garden")
            for z in self.spots(9, 22, 2):
                self.tree(side * (x + garden * 0.55), z, band=x + 1, wild=True)
        tall = draws.pick((3, 4, 5, 7))
        for first, last in self.stretches():
            z = first + (0 if first > 5 else draws(-8, 0))
            while z < last - 5:
                length = draws(9, 13) if houses else draws(9, 20)
                stop = min(z + length, last)
                floors = draws.pick((2, 2, 3)) if houses else max(2, tall + draws.pick((-1, 0, 0, 1, 2)))
                self.building(side, x + garden + (draws(0, 1.0) if houses else 0.05), z, stop, 12, floors)
                z = stop + (draws(3, 9) if houses else draws.pick((0.0, 0.0, 0.0, 0.0, 4.0)))

    def bank(self, side: int, x: float, first: float, last: float) -> None:
        """A railway on an embankment."""
        draws = self.draws
        high = draws(1.5, 3.0)
        slope = [(side * x, 0, first), (side * x, 0, last), (side * (x + 5), high, last), (side * (x + 5), high, first)]
        self.begin("terrain", side * x, first, band=x + 20)
        self.face(slope if side < 0 else slope[::-1], Part.GRASS)
        if draws.chance(0.75):
            for place in range(int(draws(1, 4))):
                self.coach("train", side * (x + 7), draws(25, 40) + 44 * place, AWAY, base=high)
        for z in self.spots(24, 30):
            self.pole(side * (x + 5.5), z, 6.5, high, 0.1)

    def skyline(self) -> None:
        """What closes the view: buildings at the end of a town's street, woods and far houses elsewhere."""
        draws, far = self.draws, self.end + 40 if self.layout != "highway" else 500.0
        for scale in (1.6, 1.0):
            x = -far * scale
            while x < far * scale:
                wide = draws(0.04, 0.16) * far
                if draws.chance(0.4):
                    self.begin("building", x, far * scale, band=900 * scale)
                    self.prism(
                        [(0, 0), (10, 0), (10, (h := draws(8, 24)) * scale), (0, h * scale)], 0, wide, Part.FACADE
                    )
                else:
                    self.begin("vegetation", x, far * scale, band=900 * scale)
                    high = draws(5, 12) * scale
                    crown = [(0, 0), (wide, 0), (wide * 0.85, high * 0.8), (wide * 0.5, high), (wide * 0.1, high * 0.7)]
                    self.face([self.at(0, y, b) for b, y in crown], Part.FOLIAGE, bend=(0, 0.5, -0.6))
                x += wide * 0.8

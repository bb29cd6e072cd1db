# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Things of many shapes for the varied streets: each tree, car, person and building is drawn with its own measures."""

from .canvas import Part
from .sides import Sides
from .things import AWAY, KERB, box, ring


# Cars: half the length, heights of the bonnet, the belt and the roof, the windscreen's foot, where the roof begins and
# ends, where the rear window ends, and the height of the boot, all in metres.
CARS = (
    (2.2, 0.78, 0.93, 1.42, 1.1, 0.4, -0.9, -1.6, 0.95), (1.85, 0.8, 0.95, 1.48, 1.0, 0.35, -1.35, -1.75, 0.8),
    (2.25, 0.78, 0.93, 1.45, 1.1, 0.35, -1.75, -2.15, 0.85), (2.2, 0.95, 1.12, 1.75, 1.15, 0.55, -1.75, -2.1, 1.0),
    (1.6, 0.85, 1.0, 1.52, 1.05, 0.5, -1.2, -1.5, 0.9), (2.1, 0.72, 0.85, 1.26, 0.75, 0.1, -0.7, -1.6, 0.86),
    (2.5, 1.0, 1.2, 2.0, 1.7, 1.0, -2.4, -2.47, 1.2), (2.75, 1.15, 1.3, 2.45, 2.05, 1.35, -2.68, -2.72, 1.3),
)  # fmt: skip


class VariedThings(Sides):
    """Builders of `Things` and `Traffic` again, for more shapes than one of each."""

    layouts = (*("street",) * 5, *("crossing",) * 4, "highway", "park", "plaza")

    def tree(self, x: float, z: float, base: float = KERB, band=None, wild: bool = False) -> None:
        """A tree in leaf, a bare one, a slender one, a conifer or a bush, its crown of ragged pieces."""
        draws = self.draws
        kind = draws.pick(("leaf", "leaf", "bare", "bare", "slender", "bush" if wild else "leaf", "conifer"))
        part = Part.TWIGS if kind == "bare" and draws.chance(0.8) else Part.LEAVES
        self.begin("vegetation", x, z, base=base, band=band, size=draws(0.7, 1.9) if wild else draws(1.0, 1.7))
        trunk, wide, tall = {
            "leaf": (draws(1.4, 3.2), draws(1.3, 2.8), draws(1.2, 2.6)),
            "bush": (0.1, draws(0.8, 2.2), draws(0.6, 1.4)),
            "bare": (draws(1.2, 3.0), draws(1.5, 3.2), draws(1.8, 3.2)), "conifer": (0.5, draws(0.9, 1.6), draws(2, 4)),
            "slender": (draws(0.6, 2), draws(0.6, 1.1), draws(2.4, 4)),
        }[kind]  # fmt: skip
        thick, lean = draws(0.07, 0.22), draws(-0.25, 0.25)
        middle = trunk + tall
        if kind != "bush":
            fork = (trunk + 0.3, lean * 0.5)
            self.limb(0, 0, fork[1], fork[0], thick)
            for _ in range(2 if self.distant or part == Part.LEAVES else 9):
                self.limb(
                    fork[1], fork[0] - 0.1, draws(-0.8, 0.8) * wide, middle + draws(-0.4, 0.8) * tall, thick * 0.4
                )
        count = 4 if self.distant else int(draws(6, 13))
        for i in range(count):
            up = draws(-0.75, 0.8) if i else 0.0
            reach = (1 - up) * 0.5 if kind == "conifer" else 0.8 - 0.3 * up * up
            aside = draws(-1, 1) * reach if i else 0.0
            half, high = draws(0.3, 0.62) * wide, draws(0.25, 0.5) * tall
            if not i:
                half, high = wide * 0.75, tall * 0.75
            cx, cy = aside * wide + lean, middle + up * tall
            bend = (aside * 1.2 + draws(-0.3, 0.3), up * 1.1 + 0.25, -0.6)
            low, top = max(cy - high, 0.02), cy + high
            corners = [(cx - half, low), (cx + half, low), (cx + half, top), (cx - half, top)]
            self.tint = draws() if draws.chance(0.15) else self.tint
            self.face([self.at(0, y, b) for b, y in corners], part, bend=bend)
        self.shade(2 * wide, 2.4 * wide)

    def limb(self, x0: float, y0: float, x1: float, y1: float, half: float) -> None:
        """A part of a trunk or a branch, as a flat piece across the view."""
        thin = half * 0.6
        edges = ((x0 - half, y0), (x0 + half, y0), (x1 + thin, y1), (x1 - thin, y1))
        self.face([self.at(0, y, b) for b, y in edges], Part.TRUNK, bend=(self.draws(-0.6, 0.6), 0.1, -0.7))

    def car(self, x: float, z: float, heading=AWAY, band=None) -> float:
        draws = self.draws
        heading = (heading[0], heading[1] + draws(-0.04, 0.04)) if heading[0] else heading
        self.begin("car", x, z, heading, size=draws(0.92, 1.06), band=band)
        body = self.tint
        half, bonnet, belt, roof, foot, front, rear, end, boot = draws.pick(CARS)
        scale = draws(0.95, 1.05)
        half, foot, front, rear, end = (scale * along for along in (half, foot, front, rear, end))
        wide, roof = draws(0.82, 0.95), roof * draws(0.96, 1.06)
        sill, nose = draws(0.2, 0.32), draws(0.02, 0.3)
        wheel, axles = draws(0.28, 0.37), (-half * 0.62, half * 0.64)
        self.prism(box(-half * 0.9, half * 0.9, 0.14, 0.4), 0.1 - wide, wide - 0.1, Part.DARK)
        profile = [(0.05 - half, sill), (half - 0.05, sill), (half, 0.55), (half - nose, bonnet), (foot, belt),
                   (end, belt + 0.01), (-half, min(boot, belt) - 0.02), (-half, 0.5)]  # fmt: skip
        self.prism(profile, -wide, wide, Part.PAINT)
        if not self.distant:
            for a in axles:
                self.side(ring(a, wheel, wheel + 0.08), wide + 0.005, Part.DARK)
        self.wheels(axles, wheel, wide)
        trim = Part.DARK if draws.chance(0.5) else Part.PAINT
        self.strip((half + 0.01, sill + 0.05), (half + 0.01, 0.5), 0.1 - wide, wide - 0.1, trim)
        self.strip((-half - 0.01, 0.48), (-half - 0.01, sill), 0.05 - wide, wide - 0.05, trim)
        self.strip((half + 0.015, bonnet - 0.2), (half + 0.015, bonnet - 0.06), -0.4 * wide, 0.4 * wide, Part.DARK)
        plate = draws(0.32, 0.75)
        self.strip((-half - 0.02, plate + 0.12), (-half - 0.02, plate), -0.26, 0.26, Part.PLATE)
        self.strip((half + 0.02, 0.4), (half + 0.02, 0.51), -0.26, 0.26, Part.PLATE)
        self.lamps(half + 0.02, -half - 0.02, draws(0.55, bonnet - 0.12), wide, draws(0.12, 0.24))
        cabin, inner = [(end, belt), (foot, belt), (front, roof), (rear, roof)], wide - draws(0.06, 0.18)
        self.prism(cabin, -inner, inner, Part.PAINT)
        glass = [(end + 0.22, belt + 0.06), (foot - 0.2, belt + 0.06), (front - 0.1, roof - 0.09),
                 (rear + 0.12, roof - 0.09)]  # fmt: skip
        if half > 2.4 and draws.chance(0.7):  # a delivery van
            glass = [(front - 0.9, belt + 0.06), (foot - 0.2, belt + 0.06), (front - 0.05, roof * 0.82),
                     (front - 0.9, roof * 0.82)]  # fmt: skip
        self.side(glass, inner + 0.01, Part.GLASS)
        for a in (draws(-0.5, -0.2), draws(-1.2, -0.9)):
            if a > rear + 0.2 and half < 2.45:
                self.side(box(a, a + 0.09, belt, roof - 0.06), inner + 0.015, Part.PAINT)
        for (a0, y0), (a1, y1) in ((cabin[1], cabin[2]), (cabin[3], cabin[0])):
            p, q = ((a0 + (a1 - a0) * t, y0 + (y1 - y0) * t) for t in (0.12, 0.9))
            self.strip(p, q, 0.1 - inner, inner - 0.1, Part.GLASS)
        if not self.distant:
            for b in (wide, -wide - 0.16):
                self.prism(box(foot - 0.4, foot - 0.28, belt - 0.02, belt + 0.13), b, b + 0.16, Part.PAINT)
            if draws.chance(0.12):  # a taxi's sign or a box on the roof
                self.prism(
                    box(-0.5, 0.3, roof, roof + draws(0.12, 0.35)), -0.35, 0.35, draws.pick((Part.DARK, Part.CARGO))
                )
        self.tint = body
        self.shade(2 * half, 2 * wide)
        return 2 * half

    def person(self, x: float, z: float, heading=AWAY, base: float = KERB, band=None) -> None:
        """Grown-ups and children, slim and stout, in jackets, coats or skirts, some with a bag."""
        draws = self.draws
        size = draws.pick((draws(0.88, 1.06), draws(0.88, 1.06), draws(0.88, 1.06), draws(0.6, 0.85)))
        self.begin("person", x, z, heading, base, size, band)
        stride, hem, stout = draws(0.02, 0.34), draws.pick((0.4, 0.62, 0.78, 0.86, 0.92)), draws(0.85, 1.35)
        hip, lower = draws(0.09, 0.13) * stout, draws.pick((Part.TROUSERS, Part.TROUSERS, Part.TOP, Part.DARK))
        for foot, left in ((stride, 0.02), (-stride, -0.17)):
            leg = [(foot - 0.07, 0), (foot + 0.13, 0), (hip, 0.88), (-hip, 0.88)]
            self.prism(leg, left, left + 0.15 * stout, lower, grouped=True)
        flare = draws(0.0, 0.1) if hem < 0.7 else 0.0
        if not self.distant:
            for swing, left in ((-stride * 0.7, 0.2 * stout), (stride * 0.7, -0.2 * stout - 0.1)):
                arm = [(swing - 0.05, 0.8), (swing + 0.05, 0.8), (0.06, 1.42), (-0.06, 1.42)]
                self.prism(arm, left, left + 0.1, Part.TOP, grouped=True)
        torso = [(-hip - flare, hem), (hip + flare, hem), (hip + 0.01, 1.44), (-hip - 0.01, 1.44)]
        self.prism(torso, -0.2 * stout - flare, 0.2 * stout + flare, Part.TOP, grouped=True)
        if draws.chance(0.3):  # a rucksack, or a bag in a hand
            back = [(-0.34, 0.95), (-0.1, 0.92), (-0.1, 1.4), (-0.3, 1.38)]
            bag = back if draws.chance(0.5) else box(-0.15, 0.2, 0.35, 0.72)
            left = -0.16 if bag is back else 0.24
            self.prism(
                bag, left, left + (0.32 if bag is back else 0.1), draws.pick((Part.DARK, Part.CARGO)), grouped=True
            )
        self.head(0.0, 1.6)
        if draws.chance(0.2):
            self.prism(ring(-0.02, 1.66, 0.135), -0.11, 0.11, Part.TOP)  # a hat or hood
        self.shade(0.4, 0.6)

    def vehicle(self, x: float, z: float, heading, band: float) -> float:
        if self.layout != "highway" and self.draws.chance(0.16):
            self.cycle("bicycle", x + self.draws(-0.6, 0.9), z, heading, ridden=True, band=band)
            return 2.0
        return super().vehicle(x, z, heading, band)

    def building(self, side: float, x: float, z0: float, z1: float, depth: float, floors: int) -> None:
        """A building of any height and roof, with bays, signs, awnings, balconies, chimneys and a shop or a porch."""
        draws, length = self.draws, z1 - z0
        x += draws.pick((0.0, 0.0, draws(0, 1.5)))
        high = draws(0.4, 1.2) + draws(2.7, 3.5) * floors
        near, far = sorted((side * x, side * (x + depth)))
        self.block("building", near, far, z0, z1, KERB, KERB + high, Part.FRONT, x)
        face = near if side > 0 else far
        roof = draws.pick(("flat", "flat", "ridge", "ridge", "gable", "attic"))
        if roof == "ridge":
            ridge, middle, over = high + draws(1.2, 4.5), (near + far) / 2, draws(0.1, 0.6)
            for lo, hi in (((near - over, high), (middle, ridge)), ((middle, ridge), (far + over, high))):
                slope = [self.at(a, y, b) for a, (b, y) in ((length, lo), (0, lo), (0, hi), (length, hi))]
                self.face(slope, Part.ROOF)
            self.face([self.at(0, high, near), self.at(0, high, far), self.at(0, ridge, middle)], Part.FRONT)
        elif roof == "gable":  # towards the street
            top = high + draws(1.5, 4)
            corners = [(0, high), (length, high), (length / 2, top)]
            self.prism(corners, near, far, Part.ROOF)
            wall = [self.at(a, y, face - side * 0.02) for a, y in corners]
            self.face(wall if side < 0 else wall[::-1], Part.FRONT)
        elif roof == "attic":
            top = high + draws(1.8, 3)
            self.prism([(0, high), (length, high), (length - 0.6, top), (0.6, top)], near + 0.8, far - 0.8, Part.ROOF)
        else:
            self.prism(
                box(-0.1, length + 0.1, high - draws(0.1, 0.5), high + draws(0.1, 0.9)),
                near - 0.2,
                far + 0.2,
                Part.TRIM,
            )
        if draws.chance(0.5):
            a, b = draws(0.1, 0.8) * length, face + side * draws(2, 5)
            self.prism(box(a, a + 1.2, high, high + draws(1.5, 4.5)), b - 0.4, b + 0.4, Part.BRICK)

        def out(a0: float, a1: float, y0: float, y1: float, far: float, part: Part) -> None:
            """A box on the front."""
            self.prism(box(a0, a1, y0, y1), *sorted((face, face - side * far)), part)

        if draws.chance(0.35):  # bay windows
            for a in range(1, int(length) - 2, draws.pick((4, 5, 7))):
                out(a, a + 2, draws.pick((0.3, 3.4)), high - draws(0.5, 1.5), draws(0.4, 0.9), Part.FRONT)
        elif draws.chance(0.3):
            for floor in range(1, floors):
                for a in (1.5, length - 4.0):
                    out(a, a + 2.5, 0.6 + 3.1 * floor, 1.5 + 3.1 * floor, 0.8, draws.pick((Part.TRIM, Part.METAL)))
        if draws.chance(0.35):  # awning
            out(0.5, length - 0.5, 2.7, draws(2.85, 3.3), draws(0.4, 1.4), Part.CARGO)
        for _ in range(int(draws(0, 3.5))):  # signs that stick out
            a, y, part = (
                draws(0.5, length - 0.6),
                draws(2.6, 4.2),
                draws.pick((Part.CARGO, Part.POSTER, Part.SIGN_WHITE)),
            )
            out(a, a + draws(0.08, 0.3), y, y + draws(0.4, 1.6), draws(0.5, 1.1), part)
        if draws.chance(0.4):
            a, y = draws(0.3, length * 0.5), draws(2.6, 5)
            out(a, a + draws(1.5, length * 0.45), y, y + draws(0.6, 2.2), 0.08, Part.POSTER)

    def frontage(self, side: int) -> None:
        """More often a row of buildings than in version 1: a town's street."""
        if self.layout in ("street", "crossing", "plaza") and self.draws.chance(0.5):
            self.rows(side, self.kerbs[side] + self.parking[side] + self.walks[side], self.draws.chance(0.2))
        else:
            super().frontage(side)

    def clutter(self, side: int) -> None:
        """Bollards, railings and planters along the kerb, cyclists beside it, bushes over walls."""
        draws, near = self.draws, self.kerbs[side] + self.parking[side]
        if draws.chance(0.35):
            high, half, step = draws(0.7, 1.1), draws(0.04, 0.12), draws(1.5, 4)
            for first, last in self.stretches():
                for i in range(int((min(last, 45) - first) / step)):
                    self.pole(side * (near + 0.4), first + i * step, high, half=half)
        if draws.chance(0.3):
            for z in self.spots(12, 40):
                self.block("fence", *sorted((side * (near + 0.35), side * (near + 0.39))), z, z + draws(3.5, 14),
                           KERB, KERB + draws(0.9, 1.2), Part.RAILING, near + 0.35)  # fmt: skip
        if draws.chance(0.5):
            for z in self.spots(6, 30):  # plain poles: of wires, of parking meters, of masts
                self.pole(side * (near + draws(0.3, 0.9)), z, draws(1.2, 8.5), half=draws(0.03, 0.12))
        if draws.chance(0.3):
            for z in self.spots(5, 30):
                sides = sorted((side * (near + 0.4), side * (near + 0.4 + draws(0.4, 1.0))))
                long, high = draws(0.6, 3), draws(0.5, 1.3)
                self.block("vegetation", *sides, z, z + long, KERB, KERB + high, Part.FOLIAGE, near + 0.4)
        if self.layout != "highway":
            if draws.chance(0.5):
                for z in self.spots(8, 20):
                    place = near + self.walks[side] * draws(0.3, 0.9)
                    self.tree(side * place, z, band=place)
            for z in self.spots(12, 70, 3):
                edge = self.kerbs[side] - draws(0.5, 1.2)
                self.cycle("bicycle", side * edge, z, AWAY if side > 0 else (-1.0, 0.0), ridden=True, band=edge)

    def markings(self) -> None:
        """Lines along the kerbs, coloured lanes, patches of other asphalt, arrows and boxes on the road."""
        draws = self.draws
        left, right, end = -self.kerbs[-1], self.kerbs[1], min(self.end, 120.0)
        for _ in range(int(draws(0, 6))):
            x, z = draws(left, right - 1), draws(3, 40)
            self.flat("road", x, min(x + draws(0.6, 3.5), right), z, z + draws(0.8, 14), Part.ASPHALT)
        for side in (-1, 1):
            edge, style = self.kerbs[side], draws.pick(("none", "yellow", "white", "lane"))
            for first, last in self.stretches() if self.layout != "highway" else ():
                if style == "lane":
                    self.flat("road", *sorted((side * edge, side * (edge - 1.5))), first, last, Part.RED_LANE)
                    self.flat("road", *sorted((side * (edge - 1.5), side * (edge - 1.6))), first, last, Part.MARKING)
                elif style != "none":
                    part = Part.YELLOW_LINE if style == "yellow" else Part.MARKING
                    for gap in (0.2, 0.45)[: draws.pick((1, 2))]:
                        self.flat("road", *sorted((side * (edge - gap), side * (edge - gap - 0.1))), first, last, part)
        for x, heading in self.lanes:
            if draws.chance(0.35):
                z, tip = draws(6, 30), 1.0 if heading is AWAY else -1.0
                self.flat("road", x - 0.12, x + 0.12, *sorted((z, z + 2.4 * tip)), Part.MARKING)
                head = [(x - 0.5, 0, z + 2.4 * tip), (x + 0.5, 0, z + 2.4 * tip), (x, 0, z + 4 * tip)]
                self.lay("road", head if tip > 0 else head[::-1], Part.MARKING)
        if draws.chance(0.3):  # crosswalk, or a stop box in colour
            z = draws(7, 30)
            if draws.chance(0.5):
                for x in range(int(left), int(right)):
                    self.flat("road", x, x + 0.5, z, z + draws(2.8, 3.0), Part.MARKING)
            else:
                self.flat("road", self.middle, right, z, z + 4, Part.RED_LANE)
                self.flat("road", self.middle, right, z + 4, z + 4.3, Part.MARKING)
        if draws.chance(0.3):
            self.flat("road", self.middle - 0.08, self.middle + 0.08, 3, end, Part.MARKING)

    def plots(self, side: int) -> None:
        """Strips of grass, gravel or earth on the sidewalk, and people in groups."""
        draws, near, width = self.draws, self.kerbs[side] + self.parking[side], self.walks[side]
        if width > 3 and draws.chance(0.35):
            inner, outer = near + draws(0.3, 0.5), near + draws(1.2, width - 1.2)
            for first, last in self.stretches():
                self.flat("terrain", *sorted((side * inner, side * outer)), first, last, Part.GRASS, KERB)
        for z in self.spots(14, 70):
            x = draws(near + 0.8, near + max(width - 0.5, 1.0))
            for place in range(int(draws(1, 4))):
                spot = x + draws(-0.5, 0.5)
                self.person(
                    side * spot, z + 0.5 * place, draws.pick(((1.0, 0.0), (-1.0, 0.0), (0.8, 0.6))), band=round(x)
                )

# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The things of a procedural street scene: how they are built and in which order they are painted.

A thing is a list of prisms: a profile in (along, y) metres, counter-clockwise seen from the thing's right side, pulled
out sideways from `left` to `right`. `along` is measured in the direction that the thing heads for.
"""

from collections.abc import Sequence

from .canvas import LABELS, Canvas, Draws, Part, Point, Scene


AWAY, TOWARD, RIGHT, LEFT = (1.0, 0.0), (-1.0, 0.0), (0.0, 1.0), (0.0, -1.0)  # headings: (along z, along x)
OBLIQUE = ((0.8, 0.6), (-0.8, 0.6), (0.6, -0.8), (-0.6, -0.8))
OCTAGON = ((0.92, 0.38), (0.38, 0.92), (-0.38, 0.92), (-0.92, 0.38), (-0.92, -0.38), (-0.38, -0.92), (0.38, -0.92))
OCTAGON += ((0.92, -0.38),)
KERB, DISTANT = 0.12, 42.0  # metres; distant things have fewer details
# The leaves of a tree: places in the crown and sizes of overlapping octagons, later ones in front.
CROWN = (
    (0, 0, 1), (-0.6, -0.2, 0.66), (0.6, -0.2, 0.66), (0, 0.55, 0.6), (-0.4, 0.4, 0.6), (0.45, 0.3, 0.6),
    (-0.1, -0.1, 0.5), (0.2, 0.25, 0.4), (-0.4, 0.1, 0.36),
)  # fmt: skip
# Outlines of traffic signs, and the colours of plates of that outline, each laid on the one before and smaller.
SQUARE, TRIANGLE = ((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)), ((-0.92, -0.5), (0.92, -0.5), (0, 1))
DIAMOND = (-0.9, 0), (0, -0.9), (0.9, 0), (0, 0.9)
SIGNS = {
    "limit": (OCTAGON, ((1, Part.SIGN_RED), (0.7, Part.SIGN_WHITE))),
    "stop": (OCTAGON, ((1, Part.SIGN_RED), (0.3, Part.SIGN_WHITE))),
    "keep": (OCTAGON, ((1, Part.SIGN_BLUE), (0.3, Part.SIGN_WHITE))),
    "danger": (TRIANGLE, ((1, Part.SIGN_RED), (0.6, Part.SIGN_WHITE))),
    "parking": (SQUARE, ((1, Part.SIGN_BLUE), (0.75, Part.SIGN_WHITE), (0.6, Part.SIGN_BLUE))),
    "priority": (DIAMOND, ((1, Part.SIGN_WHITE), (0.75, Part.SIGN_YELLOW))),
}

Profile = Sequence[tuple[float, float]]


def box(a0: float, a1: float, y0: float, y1: float) -> Profile:
    return (a0, y0), (a1, y0), (a1, y1), (a0, y1)


def ring(a: float, y: float, radius: float) -> Profile:
    return [(a + radius * c, y + radius * s) for c, s in OCTAGON]


class Things:
    """Collects things with the order in which to paint them, in the frame of the thing that is being built."""

    def __init__(self, seed: int):
        self.draws = Draws(seed)
        self.things: list[tuple[tuple[float, float, float], list]] = []
        self.lights: list[tuple[float, float, float, float]] = []
        self.crossing = (1e9, 1e9)  # first and last z of the street across

    # Frames and shapes

    def begin(self, label: str, x: float, z: float, heading=AWAY, base: float = 0.0, size: float = 1.0, band=None):
        """
        A new thing. Behind the crossing comes before it, before what is on it; in each of these stretches things far
        from the middle (`band`, metres) come before nearer ones, and in a band the far ones before the near ones:
        planes across and along the street then separate every two things, and none covers what is in front of it.
        """
        self.x, self.z, (self.c, self.s), self.base, self.size = x, z, heading, base, size
        self.label, self.tint, self.groups = LABELS[label], self.draws(), []
        self.distant = z > DISTANT
        stretch = (z > self.crossing[0]) + (z > self.crossing[1])
        self.things.append(((-stretch, 0.0 if stretch == 1 else -abs(x if band is None else band), -z), self.groups))

    def at(self, a: float, y: float, b: float) -> Point:
        a, b = a * self.size, b * self.size
        return self.x + a * self.s + b * self.c, self.base + y * self.size, self.z + a * self.c - b * self.s

    def group(self, a: float = 0.0, b: float = 0.0) -> None:
        """What follows is painted as one, in the order of the distances of the groups' points."""
        x, _, z = self.at(a, 0, b)
        self.groups.append((-(x * x + z * z), []))

    def face(self, points: Sequence[Point], part: Part, label: str | None = None, bend: Point | None = None) -> None:
        """A polygon, of the thing's label if it has none of its own; `bend` is its normal if it stands for a round."""
        if not self.groups:
            self.group()
        self.groups[-1][1].append((list(points), self.label if label is None else LABELS[label], part, self.tint, bend))

    def side(self, profile: Profile, b: float, part: Part) -> None:
        """A flat shape on both sides, `b` off the middle (on the left side mirrored)."""
        self.face([self.at(a, y, b) for a, y in profile], part)
        self.face([self.at(a, y, -b) for a, y in reversed(profile)], part)

    def strip(self, p: tuple[float, float], q: tuple[float, float], left: float, right: float, part: Part) -> None:
        """A rectangle across: a front one where `p` is below `q`, a back one where `p` is above `q`."""
        self.face([self.at(*q, right), self.at(*p, right), self.at(*p, left), self.at(*q, left)], part)

    def prism(self, profile: Profile, left: float, right: float, part: Part, label: str | None = None, grouped=False):
        """A profile pulled out sideways; `grouped` prisms of a thing are painted in the order of their distances."""
        if grouped:
            self.group(sum(a for a, _ in profile) / len(profile), (left + right) / 2)
        near, far = ([self.at(a, y, b) for a, y in profile] for b in (right, left))
        for i in range(len(profile)):
            self.face((near[i], near[i - 1], far[i - 1], far[i]), part, label)
        self.face(near, part, label)
        self.face(far[::-1], part, label)

    def lay(self, label: str, points: Sequence[Point], part: Part) -> None:
        """On the ground, which is painted first, in the order of the calls."""
        self.begin(label, 0, 0)
        self.things[-1] = ((-9.0, 0.0, 0.0), self.groups)
        self.face(points, part)

    def flat(self, label: str, x0: float, x1: float, z0: float, z1: float, part: Part, y: float = 0.0) -> None:
        """A rectangle on the ground."""
        self.lay(label, [(x0, y, z0), (x1, y, z0), (x1, y, z1), (x0, y, z1)], part)

    def shade(self, length: float, width: float) -> None:
        """The shadow under the thing begun last; leaves the frame, so that it comes after everything else."""
        corners = [self.at(v * length * 0.53, 0, u * width * 0.55) for u, v in OCTAGON]
        self.lay("road", [(x + 0.2, y, z) for x, y, z in corners], Part.SHADOW)

    def light(self, a: float, y: float, b: float, part: Part) -> None:
        self.lights.append((*self.at(a, y, b), float(part)))

    # People, street furniture, plants and buildings

    def person(self, x: float, z: float, heading=AWAY, base: float = KERB, band=None) -> None:
        self.begin("person", x, z, heading, base, self.draws(0.92, 1.06), band)
        stride, coat = self.draws(0.06, 0.3), self.draws(0.72, 0.95)
        if self.distant:
            self.prism([(-stride, 0), (stride, 0), (0.09, 0.85), (-0.09, 0.85)], -0.16, 0.16, Part.TROUSERS)
            self.prism(box(-0.11, 0.11, coat, 1.46), -0.26, 0.26, Part.TOP)
            self.prism(box(-0.11, 0.11, 1.46, 1.74), -0.1, 0.1, Part.SKIN)
            return
        for foot, left in ((stride, 0.02), (-stride, -0.17)):
            leg = [(foot - 0.06, 0), (foot + 0.12, 0), (0.09, 0.85), (-0.09, 0.85)]
            self.prism(leg, left, left + 0.15, Part.TROUSERS, grouped=True)
        for swing, left in ((-stride * 0.7, 0.21), (stride * 0.7, -0.31)):
            arm = [(swing - 0.05, 0.8), (swing + 0.05, 0.8), (0.06, 1.42), (-0.06, 1.42)]
            self.prism(arm, left, left + 0.1, Part.TOP, grouped=True)
        self.prism([(-0.13, coat), (0.13, coat), (0.11, 1.46), (-0.11, 1.46)], -0.21, 0.21, Part.TOP, grouped=True)
        self.head(0.0, 1.6)
        self.shade(0.4, 0.6)

    def head(self, a: float, y: float) -> None:
        self.prism(ring(a + 0.02, y, 0.13), -0.1, 0.1, Part.SKIN, grouped=True)
        hair = [(-0.13, -0.06), (-0.04, -0.05), (0.1, 0.06), (0.06, 0.15), (-0.1, 0.13)]
        self.prism([(a + p, y + q) for p, q in hair], -0.105, 0.105, Part.HAIR)

    def pole(self, x: float, z: float, high: float, base: float = KERB, half: float = 0.05, band=None, label="pole"):
        self.begin(label, x, z, base=base, band=band)
        self.prism(box(-half, half, 0, high), -half, half, Part.METAL, "pole")

    def lamp_post(self, x: float, z: float, base: float = KERB, band=None) -> None:
        high, reach = self.draws(6.0, 8.0), -2.0 if x > 0 else 2.0
        self.pole(x, z, high, base, 0.07, band)
        self.prism(box(-0.04, 0.04, high - 0.1, high), min(0, reach), max(0, reach), Part.METAL)
        self.prism(box(-0.12, 0.12, high - 0.12, high + 0.04), *sorted((reach * 0.65, reach)), Part.METAL)
        self.strip((-0.12, high - 0.02), (-0.12, high - 0.12), *sorted((reach * 0.65, reach)), Part.LAMP)
        self.light(0, high - 0.15, reach * 0.85, Part.LAMP)

    def sign(self, x: float, z: float, base: float = KERB, band=None) -> None:
        high = self.draws(2.3, 3.0)
        self.pole(x, z, high + 0.3, base, 0.035, band, "traffic sign")
        for level in range(1 + self.draws.chance(0.3)):
            y, kind = high - 0.8 * level, self.draws.pick(tuple(SIGNS))
            shape, plate = SIGNS[kind]
            for scale, part in plate:
                self.face([self.at(-0.05, y + 0.38 * scale * v, 0.38 * scale * u) for u, v in shape], part)

    def signal(self, x: float, y: float, z: float, state: int, base: float = KERB, band=None) -> None:
        """A traffic light at height `y`: `state` 0 is red, 1 amber, 2 green."""
        self.begin("traffic light", x, z, base=base, band=band)
        self.prism(box(-0.12, 0.12, y, y + 0.95), -0.17, 0.17, Part.DARK)
        for i, part in enumerate((Part.SIGNAL_RED, Part.SIGNAL_AMBER, Part.SIGNAL_GREEN)):
            lens = [(u * 0.12, y + 0.78 - 0.3 * i + v * 0.12) for u, v in OCTAGON]
            self.face([self.at(-0.13, v, u) for u, v in lens], part if i == state else Part.SIGNAL_OFF)
        self.light(-0.14, y + 0.78 - 0.3 * state, 0, (Part.SIGNAL_RED, Part.SIGNAL_AMBER, Part.SIGNAL_GREEN)[state])

    def tree(self, x: float, z: float, base: float = KERB, band=None, wild: bool = False) -> None:
        """A street tree, or a wild one of any size and kind, with leaves nearer to the ground."""
        size = self.draws(0.6, 1.8) if wild else self.draws(0.9, 1.4)
        self.begin("vegetation", x, z, base=base, band=band, size=size)
        trunk, wide, tall = self.draws(1.7, 2.4), self.draws(1.3, 2.0), self.draws(1.4, 2.2)
        if wild and self.draws.chance(0.25):  # a conifer
            self.prism(box(-0.12, 0.12, 0, 1), -0.12, 0.12, Part.TRUNK)
            for level in range(4):
                y, r = 0.7 + 1.3 * level, 1.5 - 0.32 * level
                for side, shade in ((-r, -0.45), (r, 0.45)):
                    skirt = [self.at(0, y, min(0, side)), self.at(0, y, max(0, side)), self.at(0, y + 2.0, 0)]
                    self.face(skirt, Part.FOLIAGE, bend=(shade * 1.6, 0.35, -0.6))
        else:
            trunk += 0.0 if wild else 0.5
            self.prism(box(-0.13, 0.13, 0, trunk + 0.5), -0.13, 0.13, Part.TRUNK)
            for dx, dy, r in CROWN[:4] if self.distant else CROWN:
                cx, cy = (dx + self.draws(-0.15, 0.15)) * wide, trunk + tall * (0.85 + dy + self.draws(-0.1, 0.1))
                leaves = [(c * (k := r * self.draws(0.8, 1.1)) * wide, s * k * tall * 0.85) for c, s in OCTAGON]
                bend = (dx * 0.9 + self.draws(-0.15, 0.15), dy * 1.1 + 0.25, -0.6)
                self.face([self.at(0, cy + v, cx + u) for u, v in leaves], Part.FOLIAGE, bend=bend)
        self.shade(2.2, 2.6)

    def block(
        self, label: str, x0: float, x1: float, z0: float, z1: float, y0: float, y1: float, part: Part, band=None
    ):
        """A box along the street: walls, hedges, fences, buildings; the frame's `along` is z, sideways is x."""
        self.begin(label, 0.0, z0, base=y0, band=min(abs(x0), abs(x1)) if band is None else band)
        self.prism(box(0, z1 - z0, 0, y1 - y0), x0, x1, part)

    def building(self, side: float, x: float, z0: float, z1: float, depth: float, floors: int) -> None:
        """Front at |x| on the given side (-1 left, 1 right), on the sidewalk's height."""
        high = 0.6 + 3.1 * floors
        near, far = sorted((side * x, side * (x + depth)))
        self.block("building", near, far, z0, z1, KERB, KERB + high, Part.FACADE, x)
        if self.draws.chance(0.45):
            ridge, end = high + self.draws(1.8, 3.5), z1 - z0
            middle, eaves = (near + far) / 2, ((near - 0.3, high), (far + 0.3, high))
            for lo, hi in ((eaves[0], (middle, ridge)), ((middle, ridge), eaves[1])):
                slope = [self.at(a, y, b) for a, (b, y) in ((end, lo), (0, lo), (0, hi), (end, hi))]
                self.face(slope, Part.ROOF)
            self.face([self.at(0, high, near), self.at(0, high, far), self.at(0, ridge, middle)], Part.TRIM)
        else:
            self.prism(box(-0.15, z1 - z0 + 0.15, high - 0.25, high + 0.35), near - 0.25, far + 0.25, Part.TRIM)
        face = near if side > 0 else far
        if floors > 2 and self.draws.chance(0.4):  # shops with an awning
            out = sorted((face, face - side * 1.1))
            self.prism([(0.6, 2.9), (z1 - z0 - 0.6, 2.9), (z1 - z0 - 0.6, 3.2), (0.6, 3.2)], *out, Part.CARGO)
        elif floors > 2 and self.draws.chance(0.4):
            for floor in range(1, floors):
                y = 0.6 + 3.1 * floor
                for a in (1.5, z1 - z0 - 4.0):
                    self.prism(box(a, a + 2.5, y, y + 0.9), *sorted((face, face - side * 0.8)), Part.TRIM)

    def paint(self, canvas: Canvas) -> Scene:
        for _, groups in sorted(self.things, key=lambda thing: thing[0]):
            for _, faces in sorted(groups, key=lambda group: group[0]):
                for points, label, part, tint, bend in faces:
                    canvas.paint(points, label, part, tint, bend)
        return canvas.scene(self.lights)

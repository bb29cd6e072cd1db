# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Vehicles and two-wheelers of the procedural streets; headings, prisms and groups are those of `things`."""

from collections.abc import Sequence

from .canvas import LABELS, Part
from .things import AWAY, Things, box, ring


# The frame of a bicycle: (along, y) of both ends of every tube.
TUBES = (
    (-0.53, 0.35, -0.14, 0.85),
    (-0.18, 0.72, 0.42, 0.78),
    (-0.05, 0.32, 0.4, 0.72),
    (-0.53, 0.35, -0.05, 0.32),
    (0.53, 0.35, 0.38, 0.98),
    (-0.05, 0.32, -0.2, 0.9),
)


class Traffic(Things):
    """
    Builders of everything on wheels at (x, z), its middle on the ground; they return its length in metres.
    """

    def wheels(self, places: Sequence[float], radius: float, half: float) -> None:
        for a in () if self.distant else places:
            self.side(ring(a, radius, radius), half + 0.01, Part.TYRE)
            self.side(ring(a, radius, radius * 0.55), half + 0.02, Part.METAL)
        for b in (-half + 0.02, half - 0.27):
            low, high, front, back = 0.0, radius, max(places) + radius - 0.1, min(places) - radius + 0.1
            self.strip((front, low), (front, high), b, b + 0.25, Part.TYRE)
            self.strip((back, high), (back, low), b, b + 0.25, Part.TYRE)

    def lamps(self, front: float, back: float, y: float, half: float, size: float = 0.2) -> None:
        for b in (-half, half - 1.6 * size):
            self.strip((front, y), (front, y + size * 0.8), b, b + 1.6 * size, Part.HEADLIGHT)
            self.strip((back, y + size), (back, y), b, b + 1.6 * size, Part.TAILLIGHT)
        ahead = self.c < 0 or (self.c == 0 and self.x * self.s < 0)
        for b in (0.8 * size - half, half - 0.8 * size):
            self.light(front if ahead else back, y + size / 2, b, Part.HEADLIGHT if ahead else Part.TAILLIGHT)

    def car(self, x: float, z: float, heading=AWAY, band=None) -> float:
        self.begin("car", x, z, heading, band=band)
        kind, tall = self.draws.pick(("sedan", "hatch", "van")), self.draws(0.97, 1.06)
        tall *= 1.22 if kind == "van" else 1.0
        rear, back, top = {"sedan": (1.85, 1.0, 1.4), "hatch": (2.1, 1.55, 1.45), "van": (2.15, 1.9, 1.52)}[kind]
        nose = ((2.18, 0.62), (2.0, 0.76 * tall), (1.0, 0.9 * tall), (-rear, 0.95 * tall), (-2.18, 0.88 * tall))
        self.prism(box(-2.0, 2.0, 0.12, 0.4), -0.8, 0.8, Part.DARK)
        self.wheels((-1.33, 1.33), 0.33, 0.88)
        self.prism([(-2.15, 0.28), (2.15, 0.28), *nose], -0.89, 0.89, Part.PAINT)
        self.strip((2.19, 0.3), (2.19, 0.48), -0.7, 0.7, Part.DARK)
        self.strip((-2.19, 0.42), (-2.19, 0.28), -0.85, 0.85, Part.DARK)
        self.strip((-2.2, 0.62), (-2.2, 0.5), -0.27, 0.27, Part.PLATE)
        self.lamps(2.2, -2.2, 0.58 * tall, 0.87)
        low, high = 0.9 * tall, top * tall
        cabin = [(-rear, low), (1.15, low), (0.4, high), (-back, high)]
        self.prism(cabin, -0.72, 0.72, Part.PAINT)
        slope = [(a + (0.3 if a < 0 else -0.22), y) for a, y in ((-rear, low + 0.07), (1.12, low + 0.07))]
        glass = [*slope, (0.28, high - 0.08), (-back + 0.16, high - 0.08)]
        self.side(glass, 0.73, Part.GLASS)
        self.side(box(-0.45, -0.35, low, high - 0.05), 0.735, Part.PAINT)
        for (a0, y0), (a1, y1) in ((cabin[1], cabin[2]), (cabin[3], cabin[0])):
            p, q = ((a0 + (a1 - a0) * t, y0 + (y1 - y0) * t) for t in (0.12, 0.88))
            self.strip(p, q, -0.64, 0.64, Part.GLASS)
        self.shade(4.4, 1.9)
        return 4.4

    def truck(self, x: float, z: float, heading=AWAY, band=None) -> float:
        self.begin("truck", x, z, heading, band=band)
        tail, high = -self.draws(2.6, 5.0), self.draws(2.9, 3.6)
        self.group(tail)
        self.prism(box(tail + 0.2, 2.3, 0.55, 0.95), -0.95, 0.95, Part.DARK)
        self.wheels((tail + 1.3, tail + 2.4), 0.5, 1.15)
        self.prism(box(tail, 2.2, 0.95, high), -1.22, 1.22, Part.CARGO)
        self.strip((tail - 0.01, high - 0.15), (tail - 0.01, 1.1), -0.03, 0.03, Part.DARK)
        self.strip((tail - 0.01, 0.68), (tail - 0.01, 0.5), -1.1, 1.1, Part.FRAME)
        self.group(4.0)
        self.prism([(2.4, 0.45), (4.5, 0.45), (4.5, 1.6), (4.25, 2.75), (2.4, 2.85)], -1.15, 1.15, Part.PAINT)
        self.wheels((3.6, 3.6), 0.5, 1.15)
        self.strip((4.48, 1.7), (4.29, 2.6), -1.0, 1.0, Part.GLASS)
        self.side([(3.1, 1.6), (4.3, 1.6), (4.12, 2.5), (3.1, 2.5)], 1.16, Part.GLASS)
        self.strip((4.51, 0.8), (4.51, 1.4), -0.75, 0.75, Part.DARK)
        self.group(0.0)
        self.lamps(4.52, tail - 0.02, 0.72, 1.1)
        self.shade(9.5, 2.5)
        return 9.5

    def coach(self, label: str, x: float, z: float, heading=AWAY, band=None, base: float = 0.0) -> float:
        """A bus, or a tram or train of several carriages."""
        self.begin(label, x, z, heading, base, band=band)
        bus, half, high = label == "bus", 1.25, self.draws(2.9, 3.2) if label == "bus" else 3.5
        body, count = (Part.COACH, 1) if bus else (Part.TRAM, 3)
        length, gap = (11.0, 0.0) if bus else (13.0, 0.6)
        for car in range(count):
            middle = (car - (count - 1) / 2) * (length + gap)
            front, back = middle + length / 2, middle - length / 2
            self.group(middle)
            if bus:
                self.wheels((back + 2.5, front - 2.6), 0.48, half)
            else:
                self.prism(box(back + 0.6, front - 0.6, 0.1, 0.5), -1.0, 1.0, Part.DARK)
            bevel = 0.05 if bus or car not in (0, count - 1) else 0.5
            nose = [(front, 0.35), (front, 1.3), (front - bevel, high), (back + bevel, high), (back, 1.3), (back, 0.35)]
            self.prism(nose, -half, half, body)
            self.side(box(back + 0.05, front - 0.05, 0.45, 0.75), half + 0.01, Part.FRAME)
            pitch = (length - 1) / 7
            for pane in range(7):
                a, low = back + 0.5 + pane * pitch, 0.7 if pane in (1, 5) else 1.35  # two of them are doors
                self.side(box(a + 0.08, a + pitch - 0.08, low, high - 0.65), half + 0.02, Part.GLASS)
            t = bevel * 0.8 + 0.01
            self.strip((front + 0.02, 1.32), (front - t + 0.03, high - 0.5), -1.1, 1.1, Part.GLASS)
            self.strip((back + t - 0.03, high - 0.5), (back - 0.02, 1.32), -1.1, 1.1, Part.GLASS)
            self.strip((front + 0.03 - t, high - 0.4), (front + 0.03 - t, high - 0.1), -0.7, 0.7, Part.LAMP)
            if not bus:
                self.prism(box(back + 1, front - 1, high, high + 0.35), -0.8, 0.8, Part.DARK)
        self.group(0.0)
        reach = count * (length + gap) / 2 - gap / 2
        self.lamps(reach + 0.03, -reach - 0.03, 0.8, half)
        self.shade(2 * reach, 2 * half)
        return 2 * reach

    def cycle(self, label: str, x: float, z: float, heading=AWAY, base: float = 0.0, ridden=False, band=None) -> float:
        """A bicycle or motorcycle, with a rider or parked."""
        self.begin(label, x, z, heading, base, band=band)
        motor = label == "motorcycle"
        wheel, tyre, half = (0.32, 0.14, 0.07) if motor else (0.35, 0.05, 0.02)
        for a in (-0.68, 0.68) if motor else (-0.53, 0.53):
            self.group(a)
            if self.distant:
                self.prism(ring(a, wheel, wheel), -half, half, Part.TYRE)
                continue
            rim, hub = ring(a, wheel, wheel), ring(a, wheel, wheel - tyre)
            self.side(hub, half, Part.METAL if motor else Part.CLEAR)
            for i, (p, q) in enumerate(zip(rim, [*rim[1:], rim[0]], strict=True)):
                self.side([p, q, hub[(i + 1) % 8], hub[i]], half, Part.TYRE)
                self.strip(p, q, -half, half, Part.TYRE)
        self.group()
        if motor:
            self.prism([(-0.45, 0.3), (0.35, 0.25), (0.45, 0.55), (-0.4, 0.62)], -0.16, 0.16, Part.DARK)
            self.prism([(-0.1, 0.6), (0.5, 0.55), (0.42, 0.92), (0.1, 0.98)], -0.17, 0.17, Part.PAINT)
            self.prism([(-0.95, 0.72), (-0.05, 0.62), (-0.05, 0.76), (-0.95, 0.86)], -0.14, 0.14, Part.DARK)
            self.prism([(0.62, 0.3), (0.72, 0.3), (0.5, 1.02), (0.4, 1.02)], -0.09, 0.09, Part.METAL)
            self.prism(box(0.36, 0.46, 0.98, 1.05), -0.36, 0.36, Part.DARK)
            self.prism(box(0.5, 0.62, 0.78, 0.96), -0.1, 0.1, Part.HEADLIGHT)
            self.strip((-0.96, 0.84), (-0.96, 0.73), -0.1, 0.1, Part.TAILLIGHT)
        else:
            for a0, y0, a1, y1 in TUBES:
                da, dy = (0.0, 0.03) if abs(a1 - a0) > abs(y1 - y0) else (0.03, 0.0)
                self.side(
                    [(a0 - da, y0 - dy), (a0 + da, y0 - dy), (a1 + da, y1 + dy), (a1 - da, y1 + dy)], 0.02, Part.FRAME
                )
            self.prism(box(-0.3, -0.06, 0.89, 0.95), -0.08, 0.08, Part.DARK)
            self.prism(box(0.34, 0.4, 0.97, 1.02), -0.28, 0.28, Part.DARK)
            self.strip((-0.55, 0.78), (-0.55, 0.7), -0.05, 0.05, Part.TAILLIGHT)
        if ridden:
            self.rider(motor)
        self.shade(1.7, 0.5)
        return 1.9

    def rider(self, motor: bool) -> None:
        """On the two-wheeler that was begun last."""
        self.label, self.tint = LABELS["rider"], self.draws()
        seat = -0.2 if motor else -0.18
        for left, foot in ((0.1, 0.0), (-0.24, 0.0 if motor else 0.16)):
            thigh = [(seat - 0.08, 0.8), (seat + 0.42, 0.56 + foot), (seat + 0.46, 0.7 + foot), (seat, 0.98)]
            shin = [
                (seat + 0.16, 0.14 + foot),
                (seat + 0.34, 0.14 + foot),
                (seat + 0.46, 0.7 + foot),
                (seat + 0.32, 0.66 + foot),
            ]
            for part in (thigh, shin):
                self.prism(part, left, left + 0.14, Part.TROUSERS, grouped=True)
        for left in (0.21, -0.31):
            arm = [(0.4, 0.98), (0.46, 1.04), (seat + 0.34, 1.42), (seat + 0.22, 1.36)]
            self.prism(arm, left, left + 0.1, Part.TOP, grouped=True)
        back = [(seat - 0.12, 0.86), (seat + 0.12, 0.84), (seat + 0.38, 1.36), (seat + 0.16, 1.46)]
        self.prism(back, -0.21, 0.21, Part.TOP, grouped=True)
        self.head(seat + 0.3, 1.6)

# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Images of predictions: palette label maps, overlays, certainty maps, and panels that explain both stages.

Sizes follow numpy for arrays (`[H, W]`) and Pillow for images (`(width, height)`).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..model.image_inputs import to_rgb
from ..model.labels import CITYSCAPES_CLASSES, IGNORE_INDEX, fold


PANEL_SIZE = (1920, 1200)  # the tiles fill at most this box; title and legend come on top of it
MIN_CELL_WIDTH = 360  # room for the longest tile title, however narrow the image is
MARGIN = 16
LINE_HEIGHT = 34
SWATCH_SIZE = (30, 20)
TEXT_SIZE, HEADING_SIZE, CHIP_TEXT_SIZE = 20, 24, 17
CHIP_SIZE = (54, 23)  # room for 100%
INK, PAPER, FRAME = (25, 25, 30), (255, 255, 255), (190, 190, 195)

# Unsure pixels glow, sure ones recede: yellow at confidence 0, dark red just below the threshold, slate above it.
UNSURE_RAMP = ((255, 250, 190), (250, 145, 55), (140, 20, 45))
SURE_COLOUR = (44, 62, 92)
REFINED_COLOUR, KEPT_COLOUR = (60, 235, 235), (225, 225, 230)
DASH, DASH_GAP = 8, 7


def class_colours(id2label: Mapping[int, str]) -> np.ndarray:
    """
    One colour per class, and none twice: Cityscapes' own where all names are different classes of Cityscapes, otherwise
    generated ones.

    Args:
        id2label: class names by id, `0..num_labels - 1`, as in `config.id2label`; compared as [`fold`] has it.

    Returns:
        `uint8` array `[num_labels, 3]`, RGB in 0..255.
    """
    known = dict(CITYSCAPES_CLASSES)
    names = [fold(id2label[index]) for index in range(len(id2label))]
    if all(name in known for name in names) and len(set(names)) == len(names):
        return np.array([known[name] for name in names], dtype=np.uint8)
    return distinct_colours(len(names))


def distinct_colours(count: int) -> np.ndarray:
    """
    Any number of colours that differ as much as possible, always the same ones in the same order.

    Each next colour is the one farthest, to the eye (Oklab), from black (the ignore colour) and all before it.

    Returns:
        `uint8` array `[count, 3]`, RGB in 0..255, without very dark or very light colours.
    """
    levels = max(16, math.ceil((2 * count) ** (1 / 3)))
    grid = np.linspace(0, 255, levels).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1).reshape(-1, 3)
    perceived = _oklab(candidates)
    usable = (perceived[:, 0] > 0.4) & (perceived[:, 0] < 0.93)
    candidates, perceived = candidates[usable], perceived[usable]
    distance = np.linalg.norm(perceived, axis=1)  # from black, the origin
    chosen = []
    for _ in range(count):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(perceived - perceived[chosen[-1]], axis=1))
    return candidates[chosen]


def _oklab(colours: np.ndarray) -> np.ndarray:
    """sRGB 0..255 `[N, 3]` to Oklab, where equal distances look about equally different (B. Ottosson, 2020)."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    to_cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    to_lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    return np.cbrt(linear @ to_cones.T) @ to_lab.T


def label_image(labels: np.ndarray, colours: np.ndarray) -> Image.Image:
    """
    A label map as a palette image: the pixel value is the class id, the palette only tells viewers its colour.

    Args:
        labels: whole numbers `[H, W]` (array or CPU tensor), ids in `0..num_labels - 1` or 255 (ignored: black).
        colours: `uint8` `[num_labels, 3]` from [`class_colours`].

    Returns:
        Image of mode `"P"`; `np.asarray(image)` gives the ids back, also after saving it as PNG.

    Raises:
        `ValueError`: a map of another shape, unknown ids, or more than 255 classes.
    """
    if len(colours) > IGNORE_INDEX:
        raise ValueError(
            f"a palette image holds at most {IGNORE_INDEX} classes beside the ignored pixels, got {len(colours)}"
        )
    ids = np.asarray(labels)
    if ids.ndim != 2:
        raise ValueError(f"a label map must have the shape [height, width], got {ids.shape}")
    unknown = ids[((ids < 0) | (ids >= len(colours))) & (ids != IGNORE_INDEX)]
    if unknown.size:
        raise ValueError(
            f"the label map holds the ids {np.unique(unknown).tolist()}; known are 0..{len(colours) - 1} and "
            f"{IGNORE_INDEX} (ignored)"
        )
    image = Image.fromarray(ids.astype(np.uint8))
    palette = np.zeros((256, 3), dtype=np.uint8)
    palette[: len(colours)] = colours
    image.putpalette(palette.tobytes())
    return image


def overlay_image(image: Image.Image, labels: np.ndarray, colours: np.ndarray, opacity: float = 0.55) -> Image.Image:
    """
    The image with the classes' colours laid over it; ignored pixels stay as they are.

    Args:
        image: of any mode that converts to RGB.
        labels, colours: as for [`label_image`], of the image's size.
        opacity: weight of the colours, 0..1.

    Returns:
        RGB image of the same size.

    Raises:
        `ValueError`: the sizes differ, or as for [`label_image`].
    """
    coloured = label_image(labels, colours)
    if coloured.size != image.size:
        raise ValueError(
            f"the label map is {coloured.height}x{coloured.width} (height x width), its image "
            f"{image.height}x{image.width}"
        )
    image = to_rgb(image)
    ignored = Image.fromarray(np.asarray(coloured) == IGNORE_INDEX)
    return Image.composite(image, Image.blend(image, coloured.convert("RGB"), opacity), ignored)


def certainty_image(
    confidence: np.ndarray,
    windows: np.ndarray,
    certainty: np.ndarray,
    refined: np.ndarray,
    confidence_threshold: float,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """
    How sure the coarse pass was, and what was done about it.

    The heat map is the confidence of each pixel: yellow to dark red below *theta*, slate above. On it the windows:
    refined ones with a solid cyan outline, kept ones with a dashed pale one, each with its certainty in percent (the
    share of its pixels above *theta*) where there is room. Outlines end in the middle of the overlap with the next
    window, because crossing ones cannot be told apart.

    Args:
        confidence: floats `[H, W]` in 0..1, the coarse probability of each pixel's best class.
        windows: integers `[N, 4]`, (top, left, bottom, right) in pixels of `confidence`, exclusive ends.
        certainty: floats `[N]` in 0..1.
        refined: bools `[N]`.
        confidence_threshold: *theta*, above which a pixel counts as certain, 0..1.
        size: (width, height) wanted, by default that of `confidence`.

    Returns:
        RGB image.
    """
    height, width = confidence.shape
    position = np.linspace(0, confidence_threshold, len(UNSURE_RAMP))
    channels = [np.interp(confidence, position, channel) for channel in np.array(UNSURE_RAMP).T]
    heat = np.stack(channels, axis=-1).round().astype(np.uint8)
    heat[confidence > confidence_threshold] = SURE_COLOUR
    image = _resize(Image.fromarray(heat), size or (width, height))
    rows, columns = _cut_overlaps(windows[:, 0::2]), _cut_overlaps(windows[:, 1::2])
    cells = np.stack([rows[:, 0], columns[:, 0], rows[:, 1], columns[:, 1]], axis=1)
    cells = (cells * ([image.height / height, image.width / width] * 2)).round().astype(int)
    draw = ImageDraw.Draw(image)
    room = all(
        right - left > CHIP_SIZE[0] + 10 and bottom - top > CHIP_SIZE[1] + 10 for top, left, bottom, right in cells
    )
    for (top, left, bottom, right), share, solid in zip(cells, certainty, refined, strict=True):
        _draw_window(draw, (left, top, right - 1, bottom - 1), bool(solid))
        if room:
            _draw_chip(draw, ((left + right) / 2, (top + bottom) / 2), f"{share:.0%}", bool(solid))
    return image


def panel_image(
    image: Image.Image,
    coarse: np.ndarray,
    confidence: np.ndarray,
    windows: np.ndarray,
    certainty: np.ndarray,
    refined: np.ndarray,
    final: np.ndarray,
    id2label: Mapping[int, str],
    confidence_threshold: float,
    truth: np.ndarray | None = None,
    title: str | None = None,
) -> Image.Image:
    """
    One figure of a prediction: input, coarse map, certainty with the windows, final map (and ground truth), a legend.

    Args:
        image: the input, upright.
        coarse, final, truth: label maps `[H, W]` of any size with the image's aspect ratio, ids as for
            [`label_image`].
        confidence, windows, certainty, refined, confidence_threshold: as for [`certainty_image`].
        id2label: class names by id. The legend has those that occur.
        title: heading of the figure, such as the file's name.

    Returns:
        RGB image, about 2000 pixels wide at most.
    """
    colours = class_colours(id2label)
    maps = {"Coarse": coarse, "Final": final} | ({} if truth is None else {"Ground truth": truth})
    coloured = {name: label_image(labels, colours).convert("RGB") for name, labels in maps.items()}
    columns, size = _arrange(2 + len(maps), image.size)
    count = int(np.sum(refined))
    explained = certainty_image(confidence, windows, certainty, refined, confidence_threshold, size)
    tiles = {
        "Input": to_rgb(image),
        "Coarse": coloured.pop("Coarse"),
        f"Certainty: {count} of {len(windows)} windows refined": explained,
        **coloured,
    }
    classes = _class_legend(list(maps.values()), colours, id2label)
    cell_width = max(size[0], MIN_CELL_WIDTH)
    cell_height = LINE_HEIGHT + size[1] + MARGIN
    width = columns * cell_width + (columns + 1) * MARGIN
    legend = [_break_lines(entries, width - 2 * MARGIN) for entries in (_window_legend(confidence_threshold), classes)]
    lines = list(itertools.chain.from_iterable(legend))
    top = MARGIN + (LINE_HEIGHT if title else 0)
    height = top + math.ceil(len(tiles) / columns) * cell_height + len(lines) * LINE_HEIGHT + MARGIN

    panel = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(panel)
    heading, text = ImageFont.load_default(size=HEADING_SIZE), ImageFont.load_default(size=TEXT_SIZE)
    if title:
        shown = _shorten(title, heading, width - 2 * MARGIN)
        draw.text((MARGIN, MARGIN + LINE_HEIGHT / 2 - 4), shown, fill=INK, font=heading, anchor="lm")
    for number, (name, tile) in enumerate(tiles.items()):
        row, column = divmod(number, columns)
        x, y = MARGIN + column * (cell_width + MARGIN), top + row * cell_height
        draw.text((x, y + LINE_HEIGHT / 2), _shorten(name, text, cell_width), fill=INK, font=text, anchor="lm")
        panel.paste(_resize(tile, size), (x, y + LINE_HEIGHT))
    _draw_legend(panel, lines, MARGIN, height - MARGIN - len(lines) * LINE_HEIGHT)
    return panel


def domains_image(
    images: Mapping[str, Image.Image],
    finals: Mapping[str, np.ndarray],
    truth: np.ndarray,
    id2label: Mapping[int, str],
    title: str | None = None,
    tile_width: int = 384,
) -> Image.Image:
    """
    One scene as several domains show it: inputs, final maps under them, then the ground truth beside a legend.

    Args:
        images: input by name of the domain, all of one size.
        finals: label map `[H, W]` by the same names, ids as for [`label_image`].
        truth: label map of the scene.
        id2label: class names by id. The legend has those that occur.
        title: heading of the figure.
        tile_width: of each image in the figure, in pixels.

    Returns:
        RGB image.
    """
    colours = class_colours(id2label)
    first = next(iter(images.values()))
    size = (tile_width, round(tile_width * first.height / first.width))
    step_x, step_y = size[0] + MARGIN, size[1] + MARGIN
    top = MARGIN + (LINE_HEIGHT if title else 0)
    width = MARGIN + len(images) * step_x
    legend = _break_lines(_class_legend([*finals.values(), truth], colours, id2label), width - 2 * MARGIN - step_x)
    last_row = LINE_HEIGHT + max(size[1], len(legend) * LINE_HEIGHT) + MARGIN
    figure = Image.new("RGB", (width, top + LINE_HEIGHT + 2 * step_y + last_row), PAPER)
    draw, text = ImageDraw.Draw(figure), ImageFont.load_default(size=TEXT_SIZE)
    if title:
        shown = _shorten(title, ImageFont.load_default(size=HEADING_SIZE), width - 2 * MARGIN)
        position = (MARGIN, MARGIN + LINE_HEIGHT / 2 - 4)
        draw.text(position, shown, fill=INK, font=ImageFont.load_default(size=HEADING_SIZE), anchor="lm")
    for column, (name, image) in enumerate(images.items()):
        x, y = MARGIN + column * step_x, top + LINE_HEIGHT
        draw.text((x, y - LINE_HEIGHT / 2), _shorten(name, text, size[0]), fill=INK, font=text, anchor="lm")
        figure.paste(_resize(to_rgb(image), size), (x, y))
        figure.paste(_resize(label_image(finals[name], colours).convert("RGB"), size), (x, y + step_y))
    y = top + LINE_HEIGHT + 2 * step_y
    draw.text((MARGIN, y + LINE_HEIGHT / 2), "Ground truth", fill=INK, font=text, anchor="lm")
    figure.paste(_resize(label_image(truth, colours).convert("RGB"), size), (MARGIN, y + LINE_HEIGHT))
    _draw_legend(figure, legend, MARGIN + step_x, y + LINE_HEIGHT)
    return figure


@dataclass
class ComparedImage:
    """
    A row of [`comparison_image`].

    Attributes:
        caption: a line above it.
        image: the input.
        maps: label maps of the image's size by their titles, the same titles in every row.
        zoom: the region that is enlarged, (top, left, bottom, right) in pixels of the image, exclusive ends.
    """

    caption: str
    image: Image.Image
    maps: Mapping[str, np.ndarray]
    zoom: tuple[int, int, int, int]


def comparison_image(rows: Sequence[ComparedImage], id2label: Mapping[int, str], tile_width: int = 384) -> Image.Image:
    """
    Images and label maps side by side: a row for each image, a column for each title, and under every tile the region
    of it that its outline shows, enlarged; a legend of the classes that occur.

    Args:
        id2label: class names by id, which label maps have as for [`label_image`].
        tile_width: of each image in the figure, in pixels.

    Returns:
        RGB image.
    """
    colours, text = class_colours(id2label), ImageFont.load_default(size=TEXT_SIZE)
    titles = ["Image", *rows[0].maps]
    heights = [round(tile_width * row.image.height / row.image.width) for row in rows]
    width = MARGIN + len(titles) * (tile_width + MARGIN)
    entries = _class_legend([labels for row in rows for labels in row.maps.values()], colours, id2label)
    legend = _break_lines(entries, width - 2 * MARGIN)
    body = sum(LINE_HEIGHT + 2 * height + 2 * MARGIN for height in heights)
    figure = Image.new("RGB", (width, LINE_HEIGHT + 3 * MARGIN + body + len(legend) * LINE_HEIGHT), PAPER)
    draw, heading = ImageDraw.Draw(figure), ImageFont.load_default(size=HEADING_SIZE)
    for column, title in enumerate(titles):
        place = MARGIN + column * (tile_width + MARGIN), MARGIN + LINE_HEIGHT / 2
        draw.text(place, _shorten(title, heading, tile_width), fill=INK, font=heading, anchor="lm")
    y = 2 * MARGIN + LINE_HEIGHT
    for row, height in zip(rows, heights, strict=True):
        caption = _shorten(row.caption, text, width - 2 * MARGIN)
        draw.text((MARGIN, y + LINE_HEIGHT / 2), caption, fill=INK, font=text, anchor="lm")
        y += LINE_HEIGHT
        coloured = [label_image(labels, colours).convert("RGB") for labels in row.maps.values()]
        top, left, bottom, right = row.zoom
        scale = tile_width / row.image.width
        outline = [round(edge * scale) for edge in (left, top, right, bottom)]
        for column, tile in enumerate([to_rgb(row.image), *coloured]):
            x = MARGIN + column * (tile_width + MARGIN)
            whole = _resize(tile, (tile_width, height))
            _draw_outline(ImageDraw.Draw(whole), outline)
            figure.paste(whole, (x, y))
            region = _resize(tile.crop((left, top, right, bottom)), (tile_width, height))
            figure.paste(region, (x, y + height + MARGIN // 2))
        y += 2 * height + 2 * MARGIN
    _draw_legend(figure, legend, MARGIN, y)
    return figure


def _draw_outline(draw: ImageDraw.ImageDraw, box: Sequence[int]) -> None:
    """A line around (left, top, right, bottom), exclusive ends, that shows on every colour."""
    left, top, right, bottom = box
    for inset, colour in ((0, INK), (1, PAPER), (2, PAPER), (3, INK)):
        if right - left > 2 * inset and bottom - top > 2 * inset:
            draw.rectangle((left + inset, top + inset, right - 1 - inset, bottom - 1 - inset), outline=colour)


@dataclass
class LegendEntry:
    """A small image and what it stands for."""

    swatch: Image.Image
    text: str

    @property
    def width(self) -> int:
        """Pixels that the entry takes in a line of the legend, with the gap to the next one."""
        return self.swatch.width + 8 + math.ceil(ImageFont.load_default(size=TEXT_SIZE).getlength(self.text)) + 28


def _window_legend(threshold: float) -> list[LegendEntry]:
    width, height = SWATCH_SIZE
    ramp = np.tile(np.linspace(0, threshold, 4 * width), (height, 1))
    none = np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=bool)
    solid, dashed = (Image.new("RGB", (2 * width, height + 4), SURE_COLOUR) for _ in range(2))
    for swatch, refined in ((solid, True), (dashed, False)):
        _draw_window(ImageDraw.Draw(swatch), (0, 0, swatch.width - 1, swatch.height - 1), refined)
    chip = Image.new("RGB", (CHIP_SIZE[0] + 1, CHIP_SIZE[1] + 1), PAPER)
    _draw_chip(ImageDraw.Draw(chip), (CHIP_SIZE[0] / 2, CHIP_SIZE[1] / 2), "%", True)
    return [
        LegendEntry(certainty_image(ramp, *none, threshold), f"coarse confidence 0 to {threshold:.3g}"),
        LegendEntry(Image.new("RGB", SWATCH_SIZE, SURE_COLOUR), f"above {threshold:.3g}"),
        LegendEntry(solid, "refined window"),
        LegendEntry(dashed, "kept window (overlaps cut in half)"),
        LegendEntry(chip, f"of a window's pixels above {threshold:.3g}"),
    ]


def _class_legend(maps: Sequence[np.ndarray], colours: np.ndarray, id2label: Mapping[int, str]) -> list[LegendEntry]:
    """The classes that occur in label maps."""
    occurring = np.unique(np.concatenate([np.unique(labels) for labels in maps]))
    return [
        LegendEntry(Image.new("RGB", SWATCH_SIZE, tuple(colours[index])), id2label[index])
        if index != IGNORE_INDEX
        else LegendEntry(Image.new("RGB", SWATCH_SIZE), "ignored")
        for index in occurring.tolist()
    ]


def _draw_legend(figure: Image.Image, lines: Sequence[Sequence[LegendEntry]], left: int, top: int) -> None:
    draw, text = ImageDraw.Draw(figure), ImageFont.load_default(size=TEXT_SIZE)
    for number, line in enumerate(lines):
        x, y = left, top + number * LINE_HEIGHT
        for entry in line:
            figure.paste(entry.swatch, (x, y + (LINE_HEIGHT - entry.swatch.height) // 2))
            draw.text((x + entry.swatch.width + 8, y + LINE_HEIGHT / 2), entry.text, fill=INK, font=text, anchor="lm")
            x += entry.width


def _break_lines(entries: Sequence[LegendEntry], width: int) -> list[list[LegendEntry]]:
    lines, used = [[]], 0
    for entry in entries:
        entry.text = _shorten(entry.text, ImageFont.load_default(size=TEXT_SIZE), width - entry.swatch.width - 36)
        if lines[-1] and used + entry.width > width:
            lines.append([])
            used = 0
        lines[-1].append(entry)
        used += entry.width
    return lines


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, or its end after dots where it is too long: file names differ at the end."""
    if font.getlength(text) <= width:
        return text
    start = next(i for i in range(len(text) + 1) if font.getlength("..." + text[i:]) <= width)
    return "..." + text[start:]


def _arrange(count: int, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Number of columns, and (width, height) of the tiles: as large as `count` of them fit into the panel."""

    def tile_scale(columns: int) -> float:
        width = PANEL_SIZE[0] / columns
        height = PANEL_SIZE[1] / math.ceil(count / columns)
        return min(width / size[0], height / size[1])

    columns = max(range(1, count + 1), key=tile_scale)
    scale = tile_scale(columns)
    return columns, (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Averages when it shrinks; when it enlarges, pixels stay visible as such."""
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.BOX)


def _cut_overlaps(spans: np.ndarray) -> np.ndarray:
    """(start, end) `[N, 2]` along one axis, each shortened to the middle of its overlap with the span beside it."""
    distinct, number = np.unique(spans, axis=0, return_inverse=True)
    cut = distinct.astype(float)
    middle = (distinct[:-1, 1] + distinct[1:, 0]) / 2
    cut[:-1, 1] = np.minimum(cut[:-1, 1], middle)
    cut[1:, 0] = np.maximum(cut[1:, 0], middle)
    return cut[number.reshape(-1)]


def _draw_window(draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], refined: bool) -> None:
    """The outline just inside (left, top, right, bottom), inclusive ends: solid if refined, dashed if kept."""
    left, top, right, bottom = box
    if right - left < 5 or bottom - top < 5:  # no room for an outline: a window of a few pixels, or a tiny panel
        return
    if refined:
        # A dark rim on both sides keeps the line visible on yellow.
        draw.rectangle(box, outline=INK, width=5)
        draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=REFINED_COLOUR, width=3)
        return
    draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline=INK, width=4)
    for x in range(left + 3, right - 2, DASH + DASH_GAP):
        for y in (top + 2, bottom - 3):
            draw.rectangle((x, y, min(x + DASH, right - 3), y + 1), fill=KEPT_COLOUR)
    for y in range(top + 3, bottom - 2, DASH + DASH_GAP):
        for x in (left + 2, right - 3):
            draw.rectangle((x, y, x + 1, min(y + DASH, bottom - 3)), fill=KEPT_COLOUR)


def _draw_chip(draw: ImageDraw.ImageDraw, centre: tuple[float, float], text: str, refined: bool) -> None:
    x, y = centre
    width, height = CHIP_SIZE
    outline, fill = (INK, REFINED_COLOUR) if refined else (KEPT_COLOUR, INK)
    draw.rounded_rectangle((x - width / 2, y - height / 2, x + width / 2, y + height / 2), 5, fill, outline)
    draw.text((x, y), text, fill=outline, font=ImageFont.load_default(size=CHIP_TEXT_SIZE), anchor="mm")

# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Small copies of datasets for the tests, in their owners' layouts: folders, and the zip archives that they come in."""

import csv
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset

from vfmseg_hf.data import acdc, bdd100k, cityscapes, gtav, mapillary, open_dataset, synthia


IGNORE = 255
PALETTE = [(7 * value + 3) % 256 for value in range(768)]  # read through it, every id would change


# --- camvid and carla: folders, with a list of frames -------------------------------------------------------------


@dataclass
class Tree:
    """A dataset on disk: where, how many images per split, and every label map as it has to come out."""

    spec: str
    folder: Path
    counts: dict[str, int]
    expected: dict[str, np.ndarray]

    def load(self, split: str) -> Dataset:
        return open_dataset(self.spec, split)


def write_frame(image: Path, labels: Path, ids: np.ndarray, palette: list[int] | None) -> None:
    for path in (image, labels):
        path.parent.mkdir(parents=True, exist_ok=True)
    # An image that says which frame it is: its level of grey is the label file's first id.
    PIL.Image.new("RGB", ids.shape[::-1], (int(ids[0, 0]),) * 3).save(image, quality=95)
    label = PIL.Image.fromarray(ids)
    if palette:
        label.putpalette(palette)
    label.save(labels)


def write_csv(path: Path, columns: str, rows: list[tuple]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns.split(","), *rows])


def camvid_tree(folder: Path) -> Tree:
    random = np.random.default_rng(0)
    table = np.array([10, 2, 5, 0, 1, 8, 7, 4, 13, 11, 12, 255])
    frames = [
        ("0001TP_006690", "train", "target_dusk"),
        ("0006R0_f00930", "train", "source_train"),
        ("0016E5_00390", "train", "source_train"),
        ("0016E5_07959", "val", "source_val"),
    ]
    expected = {}
    for name, split, _ in frames:
        ids = random.integers(0, 12, (24, 32)).astype(np.uint8)
        write_frame(folder / split / "images" / f"{name}.jpg", folder / split / "labels" / f"{name}.png", ids, None)
        expected[name] = table[ids]
    write_csv(folder / "frames.csv", "stem,split,suggested_role", frames)
    counts = {"train": 3, "val": 1, "source_train": 2, "source_val": 1, "target_dusk": 1}
    return Tree(f"camvid:{folder}", folder, counts, expected)


def carla_tree(folder: Path) -> Tree:
    random = np.random.default_rng(0)
    table = np.array([IGNORE, *range(19), *[IGNORE] * 4, 0, *[IGNORE] * 4])
    frames = [("Town01Night_1", "night"), ("Town01Sunset_2", "sunset"), ("Town01_3", "day"), ("Town02_4", "day")]
    # Colours as in the owner's files; read through them, every id would change.
    palette = [int(value) for value in random.integers(0, 256, 29 * 3)]
    expected = {}
    for name, _ in frames:
        ids = random.integers(0, 29, (32, 64)).astype(np.uint8)
        for weather in ("clear", "rainy"):
            write_frame(folder / f"images_{weather}" / f"{name}.jpg", folder / "labels" / f"{name}.png", ids, palette)
        expected[name] = table[ids]
    write_csv(folder / "frames.csv", "stem,light", frames)
    counts = {"": 4, "_day": 2, "_sunset": 1, "_night": 1}
    counts = {weather + light: count for weather in ("clear", "rainy") for light, count in counts.items()}
    return Tree(f"carla:{folder}", folder, counts, expected)


TREES = {"camvid": camvid_tree, "carla": carla_tree}


# --- the others: folders or archives ------------------------------------------------------------------------------


def rgb16_png(ids: np.ndarray) -> bytes:
    """RGB of 16 bits per channel: the id, then the number of an instance; Pillow cannot write it."""
    height, width = ids.shape
    pixels = np.zeros((height, width, 3), ">u2")
    pixels[..., 0], pixels[..., 1] = ids, 777
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_label(path: Path, ids: np.ndarray, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "rgb16":
        path.write_bytes(rgb16_png(ids))
        return
    label = PIL.Image.fromarray(ids.astype(np.uint16) * 256 + 5 if kind == "instances" else ids)
    if kind == "palette":
        label.putpalette(PALETTE)
    label.save(path)


@dataclass
class Layout:
    """Frames `(split, image, label file)`, the values of the label files, and what they become."""

    frames: list[tuple[str, str, str]]
    table: dict[int, int]
    kind: str = "plain"
    archives: dict[str, str] | None = None  # first folder of a path to the archive that holds it
    wrapper: str = ""  # a folder around everything in the archives

    def write(self, folder: Path) -> dict[str, np.ndarray]:
        random = np.random.default_rng(0)
        values = np.array(list(self.table), np.uint8)
        expected = {}
        for _, image, label in self.frames:
            ids = random.choice(values, (12, 16))
            path = folder / image
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("RGB", (16, 12), (int(ids[0, 0]),) * 3).save(path, quality=95)
            write_label(folder / label, ids, self.kind)
            expected[self.name(image)] = np.vectorize(self.table.get)(ids)
        return expected

    @staticmethod
    def name(image: str) -> str:
        return Path(image).stem.removesuffix("_leftImg8bit").removesuffix("_rgb_anon")

    def pack(self, folder: Path, to: Path) -> None:
        to.mkdir()
        for name in sorted(set(self.archives.values())):
            with zipfile.ZipFile(to / name, "w") as archive:
                for _, *paths in self.frames:
                    for path in paths:
                        if self.archives[next(k for k in self.archives if path.startswith(k))] == name:
                            archive.write(folder / path, self.wrapper + path)
                            # What macOS adds; it is no image.
                            archive.writestr(f"__MACOSX/{path}", b"")

    @property
    def splits(self) -> set[str]:
        return {split for split, _, _ in self.frames}


def cityscapes_layout() -> Layout:
    frames = [
        (split, f"leftImg8bit/{split}/{city}/{city}_{number:06d}_000019_leftImg8bit.png",
         f"gtFine/{split}/{city}/{city}_{number:06d}_000019_gtFine_labelIds.png")
        for split, city, number in (("train", "aachen", 0), ("train", "ulm", 7), ("val", "munster", 3))
    ]  # fmt: skip
    archives = {"leftImg8bit": "leftImg8bit_trainvaltest.zip", "gtFine": "gtFine_trainvaltest.zip"}
    return Layout(frames, cityscapes.TRAIN_IDS, archives=archives)


def gtav_layout() -> Layout:
    frames = [("train", f"images/{n:05d}.png", f"labels/{n:05d}.png") for n in (1, 2, 12000)]
    archives = {f"{kind}/{start}": f"{number}_{kind}.zip" for kind in ("images", "labels")
                for start, number in (("00", "01"), ("12", "05"))}  # fmt: skip
    return Layout(frames, gtav.TRAIN_IDS, "palette", archives)


def bdd_layout() -> Layout:
    frames = [(s, f"images/10k/{s}/{n}.jpg", f"labels/sem_seg/masks/{s}/{n}.png")
              for s, n in (("train", "0a0a0b1a-7c39d841"), ("val", "7d2f7975-e0c1c5a7"))]  # fmt: skip
    archives = {"images": "bdd100k_images_10k.zip", "labels": "bdd100k_sem_seg_labels_trainval.zip"}
    return Layout(frames, bdd100k.TRAIN_IDS, archives=archives, wrapper="bdd100k/")


def old_bdd_layout(images: str = "seg/images", labels: str = "seg/labels", archives=None, wrapper="") -> Layout:
    frames = [(s, f"{images}/{s}/{n}.jpg", f"{labels}/{s}/{n}_train_id.png")
              for s, n in (("train", "0a0a0b1a-7c39d841"), ("val", "7d2f7975-e0c1c5a7"))]  # fmt: skip
    return Layout(frames, bdd100k.TRAIN_IDS, archives=archives, wrapper=wrapper)


def mapillary_layout(labels: str, version: str = "1.2", kind: str = "palette") -> Layout:
    frames = [(s, f"{s}/images/{n}.jpg", f"{s}/{labels}/{n}.png")
              for s, n in (("training", "abc_DE-0"), ("training", "xyz"), ("validation", "q_1"))]  # fmt: skip
    table = next(iter(mapillary.MAPPINGS[version].values()))
    return Layout(frames, table, kind, {"training": "vistas.zip", "validation": "vistas.zip"})


def synthia_layout() -> Layout:
    frames = [("train", f"RGB/{n:07d}.png", f"GT/LABELS/{n:07d}.png") for n in (0, 1)]
    archives = dict.fromkeys(("RGB", "GT"), "SYNTHIA_RAND_CITYSCAPES.zip")
    return Layout(frames, synthia.TRAIN_IDS, "rgb16", archives, "RAND_CITYSCAPES/")


def acdc_layout() -> Layout:
    frames = [
        (s, f"rgb_anon/{c}/{s}/GOPR0475/GOPR0475_frame_{i:06d}_rgb_anon.png",
         f"gt/{c}/{s}/GOPR0475/GOPR0475_frame_{i:06d}_gt_labelIds.png")
        for i, (s, c) in enumerate((s, c) for s in ("train", "val") for c in acdc.CONDITIONS)
    ]  # fmt: skip
    archives = {"rgb_anon": "rgb_anon_trainvaltest.zip", "gt": "gt_trainval.zip"}
    return Layout(frames, cityscapes.TRAIN_IDS, archives=archives)


LAYOUTS = {
    "cityscapes": cityscapes_layout,
    "gtav": gtav_layout,
    "bdd100k": bdd_layout,
    "bdd100k (older)": lambda: old_bdd_layout(archives={"seg": "bdd100k_seg.zip"}, wrapper="bdd100k/"),
    "bdd100k (older, without seg)": lambda: old_bdd_layout(
        "images", "labels", dict.fromkeys(("images", "labels"), "a.zip")
    ),
    "bdd100k (older, other archives)": lambda: old_bdd_layout(
        "10k", "labels", {"10k": "bdd100k_images_10k.zip", "labels": "bdd100k_seg_maps.zip"}
    ),
    "mapillary": lambda: mapillary_layout("v1.2/labels"),
    "mapillary (v1.2 release)": lambda: mapillary_layout("labels"),
    "mapillary (instances)": lambda: mapillary_layout("v1.2/instances", kind="instances"),
    "mapillary (2.0)": lambda: mapillary_layout("v2.0/labels", "2.0"),
    "synthia": synthia_layout,
    "acdc": acdc_layout,
}


@dataclass
class Copy:
    """A dataset on disk."""

    spec: str
    folder: Path
    layout: Layout
    expected: dict[str, np.ndarray]

    def load(self, split: str | None = None, query: str = "") -> Dataset:
        return open_dataset(self.spec + query, split)

    def check(self, row: dict) -> None:
        assert row["image"].mode == "RGB" and row["label"].mode == "L"
        expected = self.expected[row["file_name"]]
        np.testing.assert_array_equal(np.asarray(row["label"]), expected)
        # The image says which frame it is: its grey is the first original id.
        grey = int(np.asarray(row["image"])[0, 0, 0])
        assert row["image"].size == (16, 12) and self.layout.table[grey] == expected[0, 0]


def make_copy(folder: Path, name: str, packed: bool = False, orientation: int | None = None) -> Copy:
    """A small copy of the dataset `name` of `LAYOUTS`, below `folder`; with `orientation` its images have that tag."""
    layout = LAYOUTS[name]()
    place = folder / name.replace(" ", "_")
    expected = layout.write(place)
    for _, image, _ in layout.frames if orientation else ():
        save_turned(corners(16, 12), place / image, orientation)
    if packed:
        layout.pack(place, folder / "packed")
        place = folder / "packed"
    query = "?version=2.0" if "2.0" in name else ""
    return Copy(f"{name.split()[0]}:{place}{query}", place, layout, expected)


def add_pair(copy: Copy, image: str, label: str, size=(16, 12), label_size=(16, 12)) -> None:
    """A black image and a label map of zeros below the folder of a copy; sizes are width and height."""
    for path, mode, shape in ((image, "RGB", size), (label, "L", label_size)):
        (copy.folder / path).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new(mode, shape).save(copy.folder / path)


def corners(width: int, height: int) -> np.ndarray:
    """An image with another colour in each corner, so that no turn or reflection leaves it as it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    half = height // 2, width // 2
    pixels[: half[0], : half[1]] = 200, 0, 0
    pixels[: half[0], half[1] :] = 0, 200, 0
    pixels[half[0] :, : half[1]] = 0, 0, 200
    return pixels


def save_turned(pixels: np.ndarray, path: Path, orientation: int) -> None:
    """An image with an EXIF tag that asks to turn or mirror it."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(pixels).save(path, exif=exif, quality=95, subsampling=0)

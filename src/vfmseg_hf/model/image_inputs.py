# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Images and label maps of every kind, read into tensors: the part of preprocessing that has no backend.

Both image processors read their inputs here, so what a file, a mode or a dtype means cannot differ between them.
"""

import os
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
import torch.nn.functional as F
from transformers.image_utils import ChannelDimension, ImageInput, SizeDict, is_valid_image, load_image
from transformers.utils import logging


logger = logging.get_logger(__name__)

SingleImage = PIL.Image.Image | np.ndarray | torch.Tensor

UINT16_MAX = 65535
ORIENTATION_TAG = 0x0112  # of EXIF
# Where Pillow keeps EXIF tags, and XMP, in which it looks for an orientation as well.
EXIF_KEYS = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")
TURNED_BACK = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}
IGNORED = 255
PIXEL_LIMIT = (
    "That is a limit of Pillow's against decompression bombs, not a broken file: lift it with --max_image_pixels N of "
    "the commands (0 for no limit), in Python with PIL.Image.MAX_IMAGE_PIXELS."
)


# --- files -------------------------------------------------------------------------------------------------------


def open_image(source: str | os.PathLike) -> PIL.Image.Image:
    """
    Opens and decodes an image.

    Args:
        source (`str` or `os.PathLike`):
            A local file, whose mode is kept (palettes stay palettes, 16 bits stay 16 bits); or what transformers'
            `load_image` takes and reads as 8-bit RGB: an `http(s)://` address, a `data:image/...;base64,` URI, base64.

    Returns:
        `PIL.Image.Image`: the decoded image; of a file not yet turned upright.

    Raises:
        `FileNotFoundError`: nothing of the above is found under `source`.
        `OSError`: the image is empty, truncated, none, or above Pillow's limit of pixels; the message names it.
    """
    source = os.fspath(source)
    is_address = source.startswith(("http://", "https://", "data:image/"))
    if not is_address and os.path.exists(source):
        if os.path.isfile(source) and os.path.getsize(source) == 0:
            raise OSError(f"Cannot read the image {source}: the file is empty (0 bytes).")
        try:
            image = PIL.Image.open(source)
            image.load()  # Pillow reads lazily: a truncated file would fail later, where its name is no longer known
        except FileNotFoundError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error, ... on broken files
            advice = "Is the file complete, and is it an image?"
            raise unreadable(f"the image {source}", error, advice) from error
        return image
    shown = source if len(source) <= 200 else f"{source[:60]}... ({len(source)} characters)"
    try:
        return load_image(source)
    except Exception as error:  # the HTTP client's errors, decoders', and ValueError around these
        found = error.__context__ if isinstance(error, ValueError) and error.__context__ else error
        if is_address or is_above_limit(found):
            raise unreadable(f"the image {shown}", found, "Is it there, and is it an image?") from error
        raise FileNotFoundError(
            f"No image found under {shown!r}: it is not an existing file, not an http(s) address and not the base64 "
            "text of an image."
        ) from error


def unreadable(what: str, error: Exception, advice: str) -> OSError:
    """The error for a file that Pillow has raised `error` for; without `advice` where only the limit is in the way."""
    return OSError(f"Cannot read {what}: {str(error).rstrip('.')}. {PIXEL_LIMIT if is_above_limit(error) else advice}")


def is_above_limit(error: Exception) -> bool:
    """Whether a file was not read because it has more pixels than Pillow allows."""
    return isinstance(error.__cause__ or error, PIL.Image.DecompressionBombError)


def open_all(inputs: object) -> ImageInput:
    """Replaces every path, address or base64 text in arbitrarily nested lists by the opened image."""
    if isinstance(inputs, list | tuple):
        return [open_all(item) for item in inputs]
    if isinstance(inputs, str | os.PathLike):
        return open_image(inputs)
    if is_valid_image(inputs):
        return inputs
    raise TypeError(
        f"Expected a PIL image, numpy array, torch tensor, path or address, or lists of these; got {type(inputs)}."
    )


# --- batches ------------------------------------------------------------------------------------------------------


def list_images(images: ImageInput) -> list[SingleImage]:
    """
    Flattens what `preprocess` accepts into a list of single images; arrays of shape `[B, ., ., .]` are split.

    Raises:
        `ValueError`: there is no image at all.
    """
    images = images if isinstance(images, list | tuple) else [images]
    single = []
    for item in images:
        if isinstance(item, list | tuple) or (not isinstance(item, PIL.Image.Image) and item.ndim == 4):
            single.extend(list_images(list(item)) if len(item) else [])
        else:
            single.append(item)
    if not single:
        raise ValueError("Got no image: `images` is empty. Pass one image or a list of at least one.")
    return single


def list_maps(maps: ImageInput, count: int) -> list[SingleImage]:
    """
    Flattens what `preprocess` accepts as `segmentation_maps` into a list of `count` single maps.

    A `[B, H, W]` or `[B, 1, H, W]` array counts as a batch when its first axis is the number of images.

    Raises:
        `ValueError`: the number of maps is not the number of images.
    """
    if isinstance(maps, list | tuple):
        maps = [item for entry in maps for item in (entry if isinstance(entry, list | tuple) else [entry])]
    elif not isinstance(maps, PIL.Image.Image) and maps.ndim in (3, 4) and maps.shape[0] == count:
        maps = list(maps)
    else:
        maps = [maps]
    if len(maps) != count:
        raise ValueError(
            f"Got {len(maps)} segmentation map(s) for {count} image(s). Pass exactly one map per image, in the "
            "same order."
        )
    return maps


def describe(kind: str, index: int, item: SingleImage) -> str:
    """Names an input in error messages: by its place in the batch, and by its file where it has one."""
    filename = getattr(item, "filename", None)
    return f"{kind} {index} ({filename})" if filename else f"{kind} {index}"


# --- orientation --------------------------------------------------------------------------------------------------


def exif_orientation(image: SingleImage, decode: bool = True) -> int:
    """
    EXIF's number for how to turn or mirror an image's pixels before they are shown: 2..8; from 5 on by a quarter.

    1 is as they are stored: for anything but PIL images, and where there is no tag, or one that means nothing or cannot
    be read. Without `decode`, tags that come after the pixels of a PNG file are not found.
    """
    if not isinstance(image, PIL.Image.Image):
        return 1
    if decode and image.format == "PNG":
        image.load()
    try:
        orientation = PIL.Image.Image.getexif(image).get(ORIENTATION_TAG, 1)
    except Exception:  # broken EXIF data raises SyntaxError, struct.error, ValueError, ...
        return 1
    return orientation if orientation in range(2, 9) else 1


def _turned_by_pillow(image: PIL.Image.Image) -> bool:
    """Whether it is from a TIFF file: Pillow turns these when it decodes them, and forgets their tag."""
    return hasattr(image, "tag_v2")


def stored_size(image: PIL.Image.Image) -> tuple[int, int]:
    """Width and height of the stored pixels of an opened image that is not decoded yet."""
    return (image.tag_v2[256], image.tag_v2[257]) if _turned_by_pillow(image) else image.size


def turn_upright(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image, turned and mirrored as its EXIF tag asks for."""
    return image if exif_orientation(image) == 1 else PIL.ImageOps.exif_transpose(image)


def as_stored(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image, its pixels where they are stored, without an EXIF tag; TIFF files only before they are decoded."""
    orientation = exif_orientation(image)
    if orientation == 1:
        return image
    turned = _turned_by_pillow(image)
    stored = image.transpose(TURNED_BACK[orientation]) if turned else image.copy()
    for key in EXIF_KEYS:
        stored.info.pop(key, None)
    return stored


def fits_as_stored(
    orientation: int, upright_size: Sequence[int], name: str, other_size: Sequence[int], other_name: str
) -> bool:
    """
    Whether an image that has an EXIF orientation goes, as it is stored, with a label map that has none; or the other
    way round. Sizes are (height, width), that of the one with the tag after its turn. What is found is said once.

    Raises:
        `ValueError`: it would go with it stored and turned alike: a mirrored image, one by half a turn, or a square.
    """
    upright_size, other_size = tuple(upright_size), tuple(other_size)
    stored_size = upright_size[::-1] if orientation >= 5 else upright_size
    if other_size not in (upright_size, stored_size):
        return False  # to be refused for its size
    if upright_size == stored_size:
        raise ValueError(
            f"{name} has an EXIF tag (orientation {orientation}) that asks to turn or mirror it, {other_name} has not: "
            "nothing tells whether they fit before or after that. If after, pass it turned: "
            "PIL.ImageOps.exif_transpose(image). If before, pass its pixels without the tag: np.array(image)."
        )
    stored = other_size == stored_size
    logger.warning_once(
        "Of an image and its segmentation map only one has an EXIF tag, which turns it by a quarter: it is taken "
        f"{'as stored' if stored else 'turned'}, as only this has the other one's size."
    )
    return stored


# --- images -----------------------------------------------------------------------------------------------------


def image_to_tensor(
    image: SingleImage,
    do_convert_rgb: bool = True,
    input_data_format: str | ChannelDimension | None = None,
    name: str = "The image",
    turn: bool = True,
) -> torch.Tensor:
    """
    Reads one image into a `[3, H, W]` tensor: `uint8` in 0..255, or `float32` as given for float arrays.

    16-bit images (`I;16`, `I`, `uint16`) are scaled from 0..65535 to 0..255, two-valued ones become 0 and 255,
    alpha channels are dropped, and with `turn` PIL images are turned upright according to their EXIF orientation.
    Where an array's first and last axis could both be the channels, 3 is taken before 4 before 1, and first before
    last.

    Raises:
        `ValueError`: an empty image, a wrong number of channels, values outside the range of the image's type,
            NaN or infinite values, mode `F`; or an image that is not RGB while `do_convert_rgb` is `False`.
    """
    if isinstance(image, PIL.Image.Image):
        tensor = _pil_to_tensor(image, do_convert_rgb, name, turn)
        input_data_format = ChannelDimension.LAST
    else:
        tensor = _array_to_tensor(image)
    if tensor.numel() == 0:
        raise ValueError(f"{name} has no pixels: its shape is {tuple(tensor.shape)}.")

    shape = tuple(tensor.shape)
    tensor = _channels_first(tensor, input_data_format, name)
    tensor = _to_eight_bits_or_float(tensor, name)
    channels = tensor.shape[0]
    if channels == 3:
        return tensor.contiguous()
    if not do_convert_rgb:
        raise ValueError(
            f"{name} has {channels} channel(s) (shape {shape}), the model needs 3. Pass do_convert_rgb=True to have "
            "it converted."
        )
    return (tensor[:3] if channels == 4 else tensor.expand(3, -1, -1)).contiguous()


def to_rgb(image: PIL.Image.Image, name: str = "The image") -> PIL.Image.Image:
    """
    An image as 8-bit RGB by the rules of `image_to_tensor`, its pixels where they are stored; RGB as it is.

    Raises:
        `ValueError`: as `image_to_tensor` does.
    """
    if image.mode == "RGB":
        return image
    return PIL.Image.fromarray(image_to_tensor(image, name=name, turn=False).permute(1, 2, 0).numpy())


def _pil_to_tensor(image: PIL.Image.Image, do_convert_rgb: bool, name: str, turn: bool) -> torch.Tensor:
    if 0 in image.size:
        raise ValueError(f"{name} has no pixels: its width and height are {image.size}.")
    if turn:
        image = turn_upright(image)
    mode = image.mode
    if mode == "F":
        raise ValueError(
            f"{name} has mode F (float), whose value range is unknown. Store it with 8 or 16 bits, or hand it to the "
            "image processor as an array of floats in 0..1 together with do_rescale=False."
        )
    if not do_convert_rgb and mode != "RGB":
        raise ValueError(f"{name} has mode {mode}, the model needs RGB. Pass do_convert_rgb=True to have it converted.")
    if mode == "I":
        values = np.array(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > UINT16_MAX:
            raise ValueError(
                f"{name} has mode I with values {low}..{high}; only 16-bit values, 0..{UINT16_MAX}, have a known "
                "meaning. Scale it to 8 or 16 bits first."
            )
        return torch.from_numpy(values.astype(np.uint16))[..., None]
    if mode.startswith("I;16"):
        return _array_to_tensor(np.array(image))[..., None]
    if mode in ("La", "RGBa"):  # premultiplied alpha: Pillow only knows the way through the plain form
        image = image.convert(mode[:-1] + "A")
    try:
        return torch.from_numpy(np.array(image.convert("RGB")))
    except ValueError as error:
        raise ValueError(f"{name} has mode {mode}, which Pillow cannot convert to RGB: {error}") from error


def _array_to_tensor(array: "np.ndarray | torch.Tensor") -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array.detach()
    if array.dtype.kind not in "buif":
        raise ValueError(f"Arrays of dtype {array.dtype} are neither images nor label maps.")
    # The copy makes negative strides, foreign byte order and read-only memory harmless.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _channels_first(tensor: torch.Tensor, input_data_format: str | ChannelDimension | None, name: str) -> torch.Tensor:
    shape = tuple(tensor.shape)
    if tensor.ndim == 2:
        return tensor[None]
    if tensor.ndim == 3:
        if input_data_format is not None:
            axis = 0 if ChannelDimension(input_data_format) == ChannelDimension.FIRST else 2
            if shape[axis] in (1, 3, 4):
                return tensor.movedim(axis, 0)
        else:
            for channels in (3, 4, 1):
                for axis in (0, 2):
                    if shape[axis] == channels:
                        return tensor.movedim(axis, 0)
    layout = f" read as {ChannelDimension(input_data_format).value}" if input_data_format is not None else ""
    raise ValueError(
        f"{name} has shape {shape}{layout}, which is no image: expected [H, W], or 1, 3 or 4 channels as [C, H, W] "
        "or [H, W, C]."
    )


def _to_eight_bits_or_float(tensor: torch.Tensor, name: str) -> torch.Tensor:
    if tensor.dtype == torch.uint8:
        return tensor
    if tensor.dtype == torch.bool:
        return tensor.to(torch.uint8) * 255
    if tensor.dtype == torch.uint16:
        return ((tensor.to(torch.int64) * 255 + UINT16_MAX // 2) // UINT16_MAX).to(torch.uint8)
    if tensor.is_floating_point():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise ValueError(
                f"{name} holds {bad} NaN or infinite value(s) among {tensor.numel()}. Repair or leave out this image."
            )
        return tensor.to(torch.float32)
    if tensor.is_complex():
        raise ValueError(f"{name} has dtype {tensor.dtype}: complex values are no pixels.")
    tensor = tensor.to(torch.int64)
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or high > 255:
        raise ValueError(
            f"{name} is an integer array with values {low}..{high}, outside 0..255. Pass 16-bit images as uint16, "
            "others scaled to 8 bits."
        )
    return tensor.to(torch.uint8)


# --- label maps ---------------------------------------------------------------------------------------------------


def map_to_tensor(label: SingleImage, name: str = "The segmentation map") -> torch.Tensor:
    """
    Reads one label map into an `int64` `[H, W]` tensor of ids. Stored values are ids: palettes are not looked up,
    16-bit values are not scaled, 255 stays 255.

    Raises:
        `ValueError`: the map has colour channels, no pixels, or values that are not whole numbers.
    """
    if isinstance(label, PIL.Image.Image):
        # An image rotated by EXIF has its map rotated the same way, if the map carries the tag at all.
        tensor = _array_to_tensor(np.array(turn_upright(label) if 0 not in label.size else label))
    else:
        tensor = _array_to_tensor(label)
    shape = tuple(tensor.shape)
    if tensor.ndim == 3 and 1 in (shape[0], shape[2]):
        tensor = tensor.squeeze(0 if shape[0] == 1 else 2)
    if tensor.ndim != 2:
        mode = f" (mode {label.mode})" if isinstance(label, PIL.Image.Image) else ""
        raise ValueError(
            f"{name} has shape {shape}{mode}, expected one id per pixel, [H, W]. Translate colours to class ids first."
        )
    if tensor.numel() == 0:
        raise ValueError(f"{name} has no pixels: its shape is {shape}.")
    ids = tensor.to(torch.int64)
    if tensor.is_floating_point() or tensor.is_complex():
        wrong = int((ids != tensor).sum())  # NaN and infinity differ from every whole number, too
        if wrong:
            raise ValueError(f"{name} holds {wrong} value(s) that are not whole numbers; ids must be integers.")
    return ids


def reduce_labels(label: torch.Tensor, name: str = "The segmentation map") -> torch.Tensor:
    """
    `[H, W]` ids that count classes from 1, counted from 0: 0 and 255 become 255, which is ignored.

    Raises:
        `ValueError`: ids outside 0..255, of which 256 would become the ignored id.
    """
    low, high = int(label.min()), int(label.max())
    if low < 0 or high > IGNORED:
        raise ValueError(
            f"{name} holds ids {low}..{high}; do_reduce_labels takes 0..{IGNORED}, where both ends count as no class."
        )
    return torch.where((label == 0) | (label == IGNORED), IGNORED, label - 1)


def check_same_size(image_size: Sequence[int], map_size: Sequence[int], image_name: str, map_name: str) -> None:
    """Raises a `ValueError` with both sizes (height, width) if a label map does not cover its image exactly."""
    if tuple(image_size) != tuple(map_size):
        swapped = tuple(image_size) == tuple(map_size)[::-1]
        hint = (
            "Height and width look swapped: transpose the map, or rotate it if the image was turned by its EXIF tag."
            if swapped
            else "Resize the map to the image's size with nearest-neighbour, or check that the two belong together."
        )
        raise ValueError(
            f"{map_name} is {map_size[0]}x{map_size[1]} (height x width) but {image_name} is "
            f"{image_size[0]}x{image_size[1]}. {hint}"
        )


def resize_map(label: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """
    Nearest-neighbour resize of `[H, W]` ids: each output pixel takes the id under its centre.

    Whole-number arithmetic on the indices, because libraries round the centres differently and cannot carry every id.
    """
    rows = (2 * torch.arange(height, device=label.device) + 1) * label.shape[0] // (2 * height)
    columns = (2 * torch.arange(width, device=label.device) + 1) * label.shape[1] // (2 * width)
    return label[rows[:, None], columns]


def resize_without_antialias(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """
    Bilinear resize of `[3, H, W]` pixels from the four nearest ones, half-pixel centres, however much it shrinks.

    8-bit values are rounded to 8 bits, halves up, as OpenCV rounds them; its 11-bit weights may differ by one step.
    """
    resized = F.interpolate(image[None].float(), size=(height, width), mode="bilinear", align_corners=False)[0]
    return (resized + 0.5).floor().to(torch.uint8) if image.dtype == torch.uint8 else resized


# --- sizes --------------------------------------------------------------------------------------------------------


def resized_size(height: int, width: int, size: SizeDict) -> tuple[int, int]:
    """
    Height and width in pixels that an image of `height` x `width` gets under `size`.

    - `shortest_edge` and `longest_edge`: the largest size of the same aspect ratio within that box, whichever way the
      image is turned; small images are enlarged. Each edge is rounded to the nearest pixel, and at least 1.
    - `shortest_edge` or `longest_edge` alone: that edge, the other by aspect ratio.
    - `max_height` and `max_width`: like the box, with a fixed orientation.
    - `height` and `width`: exactly these.

    Raises:
        `ValueError`: other combinations.
    """
    given = {key: value for key, value in dict(size or {}).items() if value is not None}
    if any(value <= 0 for value in given.values()):
        given = {}
    if "longest_edge" in given and given.get("shortest_edge", 0) > given["longest_edge"]:
        raise ValueError(f"`size` has a shortest_edge above its longest_edge, {given}; swap them.")
    if set(given) == {"height", "width"}:
        return size.height, size.width
    if given and set(given) <= {"shortest_edge", "longest_edge"}:
        limits = (size.shortest_edge, min(height, width)), (size.longest_edge, max(height, width))
        scale = min(limit / edge for limit, edge in limits if limit)
    elif set(given) == {"max_height", "max_width"}:
        scale = min(size.max_height / height, size.max_width / width)
    else:
        raise ValueError(
            "`size` needs positive values for shortest_edge, longest_edge or both, height and width, or max_height and "
            f"max_width; got {dict(size or {})}."
        )
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

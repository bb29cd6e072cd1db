# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Image processor of VFMSeg: what both backends share, and the PIL backend."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import INIT_SERVICE_KWARGS, BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    ImageInput,
    PILImageResampling,
    SizeDict,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import ModelOutput, TensorType, is_torchvision_available, logging

from .arguments import as_target_sizes, refuse_unknown
from .image_inputs import (
    SingleImage,
    as_stored,
    check_same_size,
    describe,
    exif_orientation,
    fits_as_stored,
    image_to_tensor,
    list_images,
    list_maps,
    map_to_tensor,
    open_all,
    reduce_labels,
    resize_map,
    resize_without_antialias,
    resized_size,
)


logger = logging.get_logger(__name__)


def notify_torchvision_missing() -> None:
    """Says, once per process, that the PIL backend stands in."""
    logger.warning_once(
        "torchvision is not installed: using VFMSegImageProcessorPil, the slower PIL backend of the VFMSeg image "
        "processor. `pip install torchvision` brings the torchvision backend."
    )


class VFMSegImageProcessorKwargs(ImagesKwargs, total=False):
    """
    antialias (`bool`, *optional*, defaults to `True`):
        Whether images that shrink are smoothed, as Pillow does. `False`, which takes bilinear `resample` only, is
        what OpenCV does, and so the published code.
    do_reduce_labels (`bool`, *optional*, defaults to `False`):
        Whether label maps count their classes from 1 and 0 is no class: 0 becomes 255 (ignored), every other id one
        less, 255 stays 255.
    """

    antialias: bool
    do_reduce_labels: bool


FILE_KEYS = ("feature_extractor_type", "auto_map")  # of preprocessor_config.json, beside transformers' own
# Settings of transformers' image processors that this one does not have, with what to do instead.
NOT_OBEYED = {
    "do_center_crop": "images are segmented whole; crop them beforehand, and leave do_center_crop out",
    "crop_size": "images are segmented whole; crop them beforehand, and leave crop_size out (None)",
    "do_pad": "images are segmented whole; pad them beforehand, and leave do_pad out",
    "pad_size": "images are segmented whole; pad them beforehand, and leave pad_size out (None)",
    "image_seq_length": "the model has no image tokens; leave image_seq_length out (None)",
}


class VFMSegImageProcessorMixin:
    """
    Everything about the VFMSeg image processor that does not depend on the backend.

    A backend class adds `resize`, `rescale` and `normalize` (inherited from transformers' backends), and
    `from_tensor`, which hands an image read into a tensor over to the backend.
    """

    valid_kwargs = VFMSegImageProcessorKwargs
    resample = PILImageResampling.BILINEAR
    antialias = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 1024, "longest_edge": 2048}
    default_to_square = False  # size=512 means a shortest edge of 512, like the default it replaces
    do_resize = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    do_reduce_labels = False

    def __init__(self, **kwargs: Unpack[VFMSegImageProcessorKwargs]):
        of_file = {*INIT_SERVICE_KWARGS, *FILE_KEYS}
        refuse_unknown(set(kwargs) - of_file, self.valid_kwargs.__annotations__, type(self).__name__)
        super().__init__(**kwargs)
        self._validate_preprocess_kwargs(**self._settings())

    def _settings(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in self._valid_kwargs_names}

    @classmethod
    def from_dict(cls, image_processor_dict: dict[str, object], **kwargs: object):
        """As in transformers; keys of a file that a later version may have written are kept, and said."""
        known = {*cls.valid_kwargs.__annotations__, *INIT_SERVICE_KWARGS, *FILE_KEYS}
        foreign = {key: value for key, value in image_processor_dict.items() if key not in known}
        own = {key: value for key, value in image_processor_dict.items() if key in known}
        loaded = super().from_dict(own, **kwargs)
        for key, value in foreign.items():
            setattr(loaded[0] if isinstance(loaded, tuple) else loaded, key, value)
        if foreign:
            logger.warning_once(
                f"The file of the image processor has settings that {cls.__name__} does not know and does not obey: "
                f"{', '.join(sorted(foreign))}."
            )
        return loaded

    def _standardize_kwargs(
        self, size: int | Sequence[int] | Mapping[str, int] | None = None, **kwargs: object
    ) -> dict[str, object]:
        if isinstance(size, list | tuple) and len(size) != 2:
            raise ValueError(f"size={size!r} has {len(size)} numbers; pass (height, width) or one integer.")
        return super()._standardize_kwargs(size=size, **kwargs)

    def _validate_preprocess_kwargs(self, **settings: object) -> None:
        super()._validate_preprocess_kwargs(**settings)
        for name, advice in NOT_OBEYED.items():
            if settings[name]:
                raise ValueError(f"{name} is not supported: {advice}.")
        if settings["data_format"] not in (None, ChannelDimension.FIRST):
            raise ValueError(f"data_format={settings['data_format']!r} is not supported: pixel values are [3, H, W].")
        if settings["do_resize"]:
            resized_size(1, 1, settings["size"])  # raises where it has no meaning
            _check_resample(settings["resample"], settings["antialias"])
        if settings["do_rescale"] and not settings["rescale_factor"] > 0:
            raise ValueError(f"rescale_factor must be greater than 0, got {settings['rescale_factor']}.")
        if settings["do_normalize"]:
            for name in ("image_mean", "image_std"):
                if np.shape(settings[name]) not in ((), (3,)):
                    raise ValueError(f"{name} must be one number or three, one per channel; got {settings[name]}.")
            if not np.min(settings["image_std"]) > 0:
                raise ValueError(f"image_std must be greater than 0, got {settings['image_std']}.")

    def normalise(self, image: torch.Tensor) -> torch.Tensor:
        """
        What `preprocess` makes of an image that keeps its size, up to the rounding of float32, for one that is floats
        already: a crop that has been augmented. It obeys `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean`
        and `image_std`.

        Args:
            image (`torch.Tensor` of shape `(3, height, width)`): float32 in 0..1, for 8-bit values of 0..255.
        """
        # A factor of 255 * (1 / 255) = 1 changes no bit of an image in 0..1, so that earlier trainings repeat.
        factor = 255 * (self.rescale_factor if self.do_rescale else 1)
        settings = {
            **self._settings(),
            "do_resize": False,
            "do_rescale": True,
            "rescale_factor": factor,
            "return_tensors": None,
        }
        return torch.as_tensor(self._preprocess([self.from_tensor(image)], **settings)["pixel_values"][0])

    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        **kwargs: Unpack[VFMSegImageProcessorKwargs],
    ) -> BatchFeature:
        """
        Turns images, and optionally their label maps, into model inputs.

        Args:
            images:
                One image or a (nested) list: PIL images of any mode except `F`; local paths, addresses or base64
                text; numpy arrays or torch tensors `[H, W]`, `[H, W, C]`, `[C, H, W]` or batches `[B, ., ., .]` with
                1, 3 or 4 channels. Values: `uint8` 0..255, `uint16` 0..65535 (scaled to 8 bits), `bool`, other
                integers in 0..255; floats are taken as they are, so for floats in 0..1 pass `do_rescale=False`.
                EXIF orientation is applied (with maps: see there), alpha is dropped.
            segmentation_maps (*optional*):
                One label map per image, of its size: PIL images with one channel (palette and 16-bit images
                included, the stored value is the id), paths, or arrays `[H, W]`, `[1, H, W]`, `[H, W, 1]`. EXIF
                orientation is applied to both. Where only one of the two has it, it must be a quarter turn, and is
                followed if the sizes fit after it, and not if they fit before; which of these is said once.
            do_resize, size, resample, antialias, do_rescale, rescale_factor, do_normalize, image_mean, image_std,
            do_convert_rgb, do_reduce_labels:
                Override the processor's settings for this call. `size` in pixels:
                `{"shortest_edge", "longest_edge"}` fits the image into that box with its aspect ratio, enlarging
                small ones; `{"height", "width"}` or a pair is exact; an integer is the shortest edge, and
                `{"longest_edge"}` alone the longest. `antialias=False` shrinks without smoothing, as OpenCV does: the
                same values from both backends, those of 8-bit images rounded.
            input_data_format (`str` or `ChannelDimension`, *optional*):
                Where the channels of arrays are, if their shape leaves a doubt.
            device (`str` or `torch.device`, *optional*):
                Where the torchvision backend computes, and where tensors are returned.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"` for one array per key, otherwise lists.

        Returns:
            [`BatchFeature`] with `pixel_values`, `float32` `[B, 3, H, W]`, and with maps `labels`, `int64`
            `[B, H, W]`, resized by nearest neighbour, ids unchanged but by `do_reduce_labels`.

        Raises:
            `ValueError`: inputs that are no images or maps (empty, wrong channels, NaN, unknown value range), a map
                whose size is not its image's, an EXIF orientation of only one of both that their sizes leave in
                doubt (mirrored, half a turn, square), a different number of maps and images, images that come out
                in different sizes while `return_tensors` asks for one array, ids outside 0..255 with
                `do_reduce_labels`, settings that are not supported: cropping, padding, `antialias=False` with a
                `resample` that is not bilinear.
            `OSError`: a file that is missing, empty, truncated or no image.
            `TypeError`: an input of an unknown type, an argument that there is not.
        """
        refuse_unknown(kwargs, self.valid_kwargs.__annotations__, type(self).__name__)
        return super().preprocess(images, segmentation_maps, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        *,
        do_resize: bool,
        size: SizeDict,
        resample: "PILImageResampling | int | None",
        antialias: bool,
        do_rescale: bool,
        rescale_factor: float,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: "str | torch.device | None" = None,
        return_tensors: str | TensorType | None = None,
        do_reduce_labels: bool | None = False,
        **kwargs: object,
    ) -> BatchFeature:
        images = list_images(self.fetch_images(images))
        orientations = [exif_orientation(image) for image in images]
        names = [describe("Image", index, image) for index, image in enumerate(images)]
        prepared = [
            self.process_image(image, do_convert_rgb, input_data_format, device=device, name=name)
            for image, name in zip(images, names, strict=True)
        ]
        sizes = [tuple(image.shape[-2:]) for image in prepared]
        labels = None
        if segmentation_maps is not None:
            maps = list_maps(self.fetch_images(segmentation_maps), len(images))
            map_names = [describe("Segmentation map", index, label) for index, label in enumerate(maps)]
            map_orientations = [exif_orientation(label) for label in maps]
            labels = [map_to_tensor(label, name) for label, name in zip(maps, map_names, strict=True)]
            for i, (tag, map_tag) in enumerate(zip(orientations, map_orientations, strict=True)):
                image, label = (sizes[i], names[i]), (labels[i].shape, map_names[i])
                if tag != 1 and map_tag == 1 and fits_as_stored(tag, *image, *label):
                    prepared[i] = self.process_image(as_stored(images[i]), do_convert_rgb, device=device)
                    sizes[i] = tuple(prepared[i].shape[-2:])
                elif tag == 1 and map_tag != 1 and fits_as_stored(map_tag, *label, *image):
                    labels[i] = map_to_tensor(as_stored(maps[i]))
            for image_size, label, name, map_name in zip(sizes, labels, names, map_names, strict=True):
                check_same_size(image_size, label.shape, name, map_name)
            if any(_is_mask_of_0_and_255(label) for label in labels):
                logger.warning_once(
                    "A segmentation map holds 0 and 255 only. 255 is ignored in training, so that nothing but class 0 "
                    "would be learnt of it: if it is a mask, pass mask // 255."
                )
            if do_reduce_labels:
                labels = [reduce_labels(label, name) for label, name in zip(labels, map_names, strict=True)]

        if do_resize:
            sizes = [resized_size(*image_size, size) for image_size in sizes]
        if return_tensors is not None and len(set(sizes)) > 1:
            raise ValueError(
                f"The images come out in different sizes (height, width): {sorted(set(sizes))}; they do not fit into "
                'one array. Pass them one by one, use size={"height": ..., "width": ...}, or return_tensors=None.'
            )
        if do_rescale and any(_looks_rescaled(image) for image in prepared):
            logger.warning_once(
                "An image of floats between 0 and 1 was rescaled again and comes out nearly black. Pass "
                "do_rescale=False for such images."
            )
        if do_resize and not antialias:
            prepared = [
                self.from_tensor(resize_without_antialias(torch.as_tensor(image), *output_size), device)
                for image, output_size in zip(prepared, sizes, strict=True)
            ]
        data = self._preprocess(
            prepared,
            do_resize=do_resize and antialias,
            size=size,
            resample=resample,
            # A factor of 1 keeps the values and still goes through the backend's conversion to float32.
            do_rescale=True,
            rescale_factor=rescale_factor if do_rescale else 1.0,
            return_tensors=None,
            **kwargs,
        )
        if labels is not None:
            labels = [resize_map(label, *output_size) for label, output_size in zip(labels, sizes, strict=True)]
            data["labels"] = [self.from_tensor(label, device) for label in labels]
        batch = BatchFeature(data=dict(data), tensor_type=return_tensors)
        return batch if device is None or return_tensors != TensorType.PYTORCH else batch.to(device)

    def fetch_images(self, images: object) -> ImageInput:
        """Opens paths, in their own mode, addresses and base64 text, as RGB; other inputs pass unchanged."""
        return open_all(images)

    def process_image(
        self,
        image: SingleImage,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        device: "str | torch.device | None" = None,
        name: str = "The image",
        **kwargs: object,
    ) -> "np.ndarray | torch.Tensor":
        """Reads one image into the backend's array type, `[3, H, W]`, `uint8` or `float32`, before any resizing."""
        return self.from_tensor(image_to_tensor(image, bool(do_convert_rgb), input_data_format, name), device)

    def resize(
        self,
        image: "np.ndarray | torch.Tensor",
        size: SizeDict,
        resample: "PILImageResampling | int | None" = None,
        **kwargs: object,
    ) -> "np.ndarray | torch.Tensor":
        """Resizes `[..., H, W]` pixels to what `size` means for them, with antialiasing when they shrink."""
        height, width = resized_size(*image.shape[-2:], size)
        return super().resize(image, SizeDict(height=height, width=width), resample=resample, **kwargs)

    def post_process_semantic_segmentation(
        self,
        outputs: ModelOutput | Mapping[str, torch.Tensor],
        target_sizes: "Sequence[Sequence[int]] | torch.Tensor | None" = None,
        return_segmentation_scores: bool = False,
    ) -> "list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]":
        """
        Turns the model's logits into one label map per image.

        Args:
            outputs ([`VFMSegSemanticSegmenterOutput`] or any object or mapping with `logits`):
                `logits` of shape `[B, num_labels, H, W]`.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `[B, 2]`, *optional*):
                Height and width in pixels wanted for each image, for instance its original size: logits are resized
                bilinearly to it before the best class is taken. Without it maps have the logits' size.
            return_segmentation_scores (`bool`, *optional*, defaults to `False`):
                Whether to return the resized logits as well.

        Returns:
            A list of `B` label maps, `int64` `[height, width]` on the logits' device; or, with scores, a list of
            [`SemanticSegmentationPostProcessorOutput`] with `segmentation` (the map) and `segmentation_scores`
            (logits, `[num_labels, height, width]`).

        Raises:
            `ValueError`: no logits, logits of another rank, or `target_sizes` that are not one (height, width) in whole
                numbers for each image.
        """
        logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", None)
        if logits is None:
            raise ValueError("`outputs` holds no logits: pass the output of the model for semantic segmentation.")
        if logits.ndim != 4:
            raise ValueError(f"Expected logits of shape [batch, num_labels, height, width], got {tuple(logits.shape)}.")
        target_sizes = as_target_sizes(
            [logits.shape[-2:]] * len(logits) if target_sizes is None else target_sizes, len(logits)
        )

        results = []
        for scores, target in zip(logits, target_sizes, strict=True):
            if target != tuple(scores.shape[-2:]):
                scores = F.interpolate(scores[None], size=target, mode="bilinear", align_corners=False)[0]
            segmentation = scores.argmax(dim=0)
            if return_segmentation_scores:
                data = {"segmentation": segmentation, "segmentation_scores": scores}
                results.append(SemanticSegmentationPostProcessorOutput(data=data))
            else:
                results.append(segmentation)
        return results


def _is_mask_of_0_and_255(label: torch.Tensor) -> bool:
    return bool((label == 0).any() and (label == 255).any() and ((label == 0) | (label == 255)).all())


def _check_resample(resample: "PILImageResampling | int | None", antialias: bool) -> None:
    try:
        resample = PILImageResampling(resample) if isinstance(resample, int) else resample
    except ValueError as error:
        raise ValueError(
            f"resample={resample} is no filter of Pillow's; choose from {list(PILImageResampling)}."
        ) from error
    if not antialias and resample not in (None, PILImageResampling.BILINEAR):
        raise ValueError(
            f"antialias=False needs resample={int(PILImageResampling.BILINEAR)} (bilinear), got {resample!r}."
        )


def _looks_rescaled(image: "np.ndarray | torch.Tensor") -> bool:
    return image.dtype not in (np.uint8, torch.uint8) and 0 <= float(image.min()) and 0 < float(image.max()) <= 1


class VFMSegImageProcessorPil(VFMSegImageProcessorMixin, PilBackend):
    """
    VFMSeg image processor on Pillow and numpy: needs no torchvision, computes on the CPU.

    Fits images into a box (1024 x 2048 pixels by default), scales them to 0..1 and normalises them with `image_mean`
    and `image_std`. Saves the same `preprocessor_config.json` as [`VFMSegImageProcessor`] and agrees with it up to the
    rounding of 8-bit resizing. See `preprocess` for inputs, outputs and errors.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: object, **kwargs: object):
        """Loads the processor from a directory, a JSON file or the Hub; see [`ImageProcessingMixin`]."""
        # AutoImageProcessor picks this class by itself, and silently, where torchvision is missing.
        if kwargs.get("_from_auto") and not is_torchvision_available():
            notify_torchvision_missing()
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def from_tensor(self, tensor: torch.Tensor, device: "str | torch.device | None" = None) -> np.ndarray:
        """The tensor as a numpy array; Pillow and numpy compute nowhere else, whatever `device` says."""
        return tensor.cpu().numpy()

    def resize(
        self,
        image: np.ndarray,
        size: SizeDict,
        resample: "PILImageResampling | int | None" = None,
        **kwargs: object,
    ) -> np.ndarray:
        """As in the mixin; floats keep their precision, where transformers' own PIL path rounds them to 8 bits."""
        if image.dtype == np.uint8:
            return super().resize(image, size, resample=resample, **kwargs)
        height, width = resized_size(*image.shape[-2:], size)
        resample = PILImageResampling.BILINEAR if resample is None else resample
        channels = [PIL.Image.fromarray(channel).resize((width, height), resample) for channel in image]
        return np.stack([np.asarray(channel) for channel in channels])


__all__ = ["VFMSegImageProcessorPil"]

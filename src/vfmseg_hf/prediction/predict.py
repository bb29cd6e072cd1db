# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""From image files to label maps, overlays and panels on disk; what `vfmseg predict` runs."""

import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors import SafetensorError
from transformers import AutoImageProcessor
from transformers.utils import logging

from ..evaluation.strips import needs_strips
from ..methods import model_class_of
from ..model.adapters import holds_adapter_only
from ..model.configuration_vfmseg import VFMSegConfig
from ..model.foundation import read_config
from ..model.image_inputs import image_to_tensor, open_image, resize_map
from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..model.window_batches import is_out_of_memory
from ..model.windows import label_map
from ..utils.files import encode_image, write_file
from ..utils.image_files import image_suffixes, list_files, suffix_of, summarise
from .quantization import quantize_int8
from .visualization import class_colours, label_image, overlay_image, panel_image


logger = logging.get_logger(__name__)

RESULT_FOLDERS = ("labels", "overlays", "panels")
SOFTWARE = "vfmseg_hf"  # in label maps of results, which tells them from files of users
DTYPES = ("float32", "bfloat16", "float16", "int8")
REFINE_MODES: dict[str, bool | str] = {"gated": True, "all": "all", "none": False}


@dataclass
class Prediction:
    """
    What the model says about one image, on the CPU.

    Args:
        image: the input as RGB, upright, of its own size.
        labels: class ids of the image's pixels, `[image height, image width]`.
        coarse_labels: class ids after the coarse pass, `[height, width]` at the size that the model saw.
        confidence: coarse probability of each pixel's best class, `uint8` `[height, width]`, 255 for 1.
        windows: `[N, 4]`, (top, left, bottom, right) in pixels of `confidence`, exclusive ends.
        certainty: floats `[N]` in 0..1.
        refined: bools `[N]`.
    """

    image: Image.Image
    labels: np.ndarray
    coarse_labels: np.ndarray
    confidence: np.ndarray
    windows: np.ndarray
    certainty: np.ndarray
    refined: np.ndarray


@dataclass
class ImageReport:
    """What became of one file: how many windows it had and how many were refined, or why there is no result."""

    path: Path
    windows: int = 0
    refined: int = 0
    error: str | None = None


class FoundImages(dict[Path, str]):
    """
    Images and the names of their results, in order.

    Attributes:
        left_out: how often each reason, of those in [`Listing`], has kept something else out of the folders.
    """

    def __init__(self, names: Mapping[Path, str], left_out: Counter[str]):
        super().__init__(names)
        self.left_out = left_out


def find_images(sources: Sequence[str | os.PathLike], output: str | os.PathLike) -> FoundImages:
    """
    The image files among files and folders, and a name for each one's results.

    A folder stands for the images in it and below it, in the order of their paths, as `list_files` finds them:
    without hidden and system files, and no folder twice. The folders `labels`, `overlays` and `panels` of `output` are
    left out: earlier results are no images to predict. A file counts whatever its extension. What is given twice
    counts once.

    Returns:
        Absolute path to name, in order. The name is the file's, without extension, after its folders below the given
        one. Where two images would share it, it gets the extension or as many further folders as it takes.

    Raises:
        `FileNotFoundError`: there is no such file or folder, or no image in a folder.
        `ValueError`: no name is free, because paths differ in nothing but upper and lower case, or a result would
            replace a file that is none of an earlier run's.
    """
    suffixes, results = image_suffixes(), [Path(output, name) for name in RESULT_FOLDERS]
    found: dict[Path, Path] = {}
    left_out: dict[Path, str] = {}
    for source in map(Path, sources):
        folder = Path(os.path.abspath(source))
        if source.is_dir():
            listing = list_files(folder, lambda name: suffix_of(name) in suffixes, results, "folder for results")
            left_out |= {folder / path: reason for path, reason in listing.left_out.items()}
            files = sorted(folder / path for path in listing.files)
            if not files:
                others = summarise(listing.left_out.values())
                but = f", but {others}" if others else ""
                raise FileNotFoundError(f"no image in the folder {source} ({' '.join(suffixes)}){but}")
        elif source.is_file():
            files, folder = [folder], folder.parent
        else:
            raise FileNotFoundError(f"no such file or folder: {source}")
        for path in files:
            found.setdefault(path, path.relative_to(folder))
    others = Counter(reason for path, reason in left_out.items() if path not in found)
    names = _unique_names(found)
    _refuse_own_labels(Path(output, RESULT_FOLDERS[0]))
    for name in names.values():
        _refuse_to_replace(Path(output), name)
    return FoundImages(names, others)


def _refuse_own_labels(folder: Path) -> None:
    """Raises `ValueError` if the folder for label maps has some that are no results, which would mix with them."""
    own = next(folder.rglob("*.png"), None) if folder.is_dir() else None
    if own is not None and not _is_result(own):
        raise ValueError(
            f"{folder} holds label maps not written by this library, such as {own.name}, and predictions would mix "
            "with them; choose another output folder"
        )


def _refuse_to_replace(output: Path, name: str) -> None:
    """Raises `ValueError` if there are files where the results `name` belong, and they are no results."""
    files = [output / file for file in result_files(name) if os.path.lexists(output / file)]
    if files and not _is_result(output / result_files(name)[0]):
        raise ValueError(
            f"the results would replace {files[0]}, which this library has not written; choose another output folder"
        )


def _is_result(labels: Path) -> bool:
    try:
        with Image.open(labels) as image:
            return image.info.get("Software") == SOFTWARE
    except OSError:
        return False


def result_files(name: str) -> tuple[str, str, str]:
    """Label map, overlay and panel of the results `name`, below the output folder."""
    labels, overlays, panels = RESULT_FOLDERS
    return f"{labels}/{name}.png", f"{overlays}/{name}.jpg", f"{panels}/{name}.png"


def _unique_names(found: Mapping[Path, Path]) -> dict[Path, str]:
    """Absolute path and path below the given folder, to the shortest name that no other image has."""

    siblings = Counter(str(path.with_suffix("")).lower() for path in found)

    def candidates(path: Path, relative: Path) -> Iterator[Path]:
        unique = siblings[str(path.with_suffix("")).lower()] == 1
        parts = path.relative_to(path.anchor).parts
        for depth in range(len(relative.parts), len(parts) + 1):
            name = Path(*parts[-depth:])
            yield name.with_suffix("") if unique else name

    further = {path: candidates(path, relative) for path, relative in found.items()}
    names = {path: next(choices) for path, choices in further.items()}
    while True:
        # Case is ignored because the disk that takes the results may ignore it.
        count = Counter(str(name).lower() for name in names.values())
        clashes = [path for path, name in names.items() if count[str(name).lower()] > 1]
        if not clashes:
            return {path: name.as_posix() for path, name in names.items()}
        for path in clashes:
            longer = next(further[path], None)
            if longer is None:
                raise ValueError(f"the results of {path} would have the name of another image's; rename one of them")
            names[path] = longer


def choose_device(name: str = "auto") -> torch.device:
    """
    The device of a name as torch has them, or for `"auto"` the machine's accelerator, if it has one.

    Raises:
        `ValueError`: the device is not available.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name} is not available: {error}") from error


def load_model(
    name_or_path: str,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    *,
    revision: str | None = None,
    backbone_name_or_path: str | None = None,
    size: int | Mapping[str, int] | None = None,
    **fields: object,
) -> tuple[VFMSegForSemanticSegmentation, VFMSegImageProcessorMixin]:
    """
    A model ready to predict, and its image processor. LoRA is folded into the encoder, which takes less work.

    Args:
        name_or_path: directory or Hub id with both, of a whole model or an adapter.
        device: as for [`choose_device`].
        dtype: what the model computes in; windows are averaged in float32 in any case. `torch.int8`, on a CPU only:
            linear layers in 8 bits ([`quantize_int8`]).
        revision: of a Hub id.
        backbone_name_or_path: as for the model's `from_pretrained`, of an adapter.
        size: the image processor's, instead of its own.
        fields: of the model's configuration, instead of its own.

    Raises:
        `ValueError`: there is no such model, it is not a VFMSeg model, a field has a value that it cannot have, or the
            device is not available or does not compute in `dtype`.
    """
    device = choose_device(device)
    if dtype == torch.int8 and device.type != "cpu":
        raise ValueError(f"8 bits are for the CPU, not for {device}; choose the device cpu, or bfloat16")
    hub = {} if revision is None else {"revision": revision}
    base = {} if backbone_name_or_path is None else {"backbone_name_or_path": backbone_name_or_path}
    try:
        config = read_config(name_or_path, hub)
        model_class = model_class_of(config)
        if model_class is None:
            raise ValueError(
                f"it is no VFMSeg model but a {config.model_type}; "
                "`vfmseg evaluate` scores it, and transformers' own pipeline segments with it"
            )
        if base and not holds_adapter_only(name_or_path, hub):
            raise ValueError("backbone_name_or_path is for adapters, and this is a whole model; leave it out")
        if unknown := [name for name in fields if name not in type(config).__dataclass_fields__]:
            raise ValueError(f"a {config.model_type} model looks once and has no {unknown[0]}; leave it out")
        model = model_class.from_pretrained(name_or_path, **hub, **base)
        resized = {} if size is None else {"size": size}
        processor = AutoImageProcessor.from_pretrained(name_or_path, **hub, **resized)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        absent = "" if os.path.isdir(name_or_path) else " (no such directory here, so it was sought on the Hub)"
        raise ValueError(f"cannot load a model and its image processor from {name_or_path}{absent}: {error}") from error
    for name, value in fields.items():
        setattr(model.config, name, value)
    try:
        model.config.validate()
    except StrictDataclassError as error:
        raise ValueError(f"no model can have {fields}: {error.__cause__ or error}") from error
    if model._hf_peft_config_loaded:
        model.merge_and_unload()  # before the weights are rounded
    model = model.to(device).eval()
    return quantize_int8(model) if dtype == torch.int8 else model.to(dtype), processor


@dataclass
class PreparedImage:
    """An image as RGB, upright, of its own size, and what the model sees of it, `[3, height, width]`."""

    image: Image.Image
    pixel_values: torch.Tensor


def prepare_image(processor: VFMSegImageProcessorMixin, image: Image.Image) -> PreparedImage:
    """
    Turn upright, resize and normalise: what a loader's workers do while the device computes.

    Raises:
        `ValueError`: if the image processor does not take the image.
    """
    # The processor's own reading of the file, so that the image shown is the one that was segmented.
    upright = Image.fromarray(image_to_tensor(image).permute(1, 2, 0).numpy())
    return PreparedImage(upright, processor(image, return_tensors="pt")["pixel_values"][0])


@torch.inference_mode()
def predict_images(
    model: VFMSegForSemanticSegmentation, prepared: Sequence[PreparedImage], refine: bool | str = True
) -> list[Prediction]:
    """
    Segment several images, of different sizes if need be, at their own sizes.

    Args:
        model: in eval mode.
        prepared: from [`prepare_image`].
        refine: as for the model's `forward`.
    """
    inputs = [item.pixel_values.to(model.device, model.dtype, non_blocking=True) for item in prepared]
    in_strips, sizes = needs_strips(model, inputs), [item.image.size[::-1] for item in prepared]
    results = model.segment(inputs, None if in_strips else sizes, refine, in_strips=in_strips)
    predictions = []
    for item, result in zip(prepared, results, strict=True):
        coarse_labels, confidence = label_map(result.coarse_logits, item.pixel_values.shape[-2:])
        labels = result.labels
        if labels.shape != item.image.size[::-1]:  # of strips, whose logits are gone before they can be resized
            logger.warning_once(
                "The logits of an image do not fit into memory, so that it is finished in strips: labels are brought "
                "to the image's own size (nearest pixel) instead of logits, which shows at edges of classes."
            )
            labels = resize_map(labels, *item.image.size[::-1])
        maps = (maps.cpu().numpy() for maps in (labels, coarse_labels, confidence))
        gate = (np.array(result.windows).reshape(-1, 4), np.array(result.certainty), np.array(result.refined, bool))
        predictions.append(Prediction(item.image, *maps, *gate))
    return predictions


def predict_image(
    model: VFMSegForSemanticSegmentation,
    processor: VFMSegImageProcessorMixin,
    image: Image.Image,
    refine: bool | str = True,
) -> Prediction:
    """
    Segment one image at its own size.

    Args:
        model: in eval mode.
        image: of any mode that the image processor takes; its EXIF orientation is applied.
        refine: as for the model's `forward`.
    """
    return predict_images(model, [prepare_image(processor, image)], refine)[0]


class ImageFiles(torch.utils.data.Dataset):
    """Image files, decoded and prepared: a [`PreparedImage`], or in words why there is none."""

    def __init__(self, paths: Sequence[Path], processor: VFMSegImageProcessorMixin):
        self.paths, self.processor = paths, processor

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> PreparedImage | str:
        try:
            return prepare_image(self.processor, open_image(self.paths[index]))
        except (OSError, ValueError) as error:
            return str(error)


def predict_files(
    model: VFMSegForSemanticSegmentation,
    processor: VFMSegImageProcessorMixin,
    images: Mapping[Path, str],
    output: str | os.PathLike,
    refine: bool | str = True,
    batch_size: int = 1,
    num_workers: int = 0,
) -> Iterator[ImageReport]:
    """
    Segment image files and write `labels/`, `overlays/` and `panels/` under `output`.

    Args:
        images: files and the names of their results, from [`find_images`].
        output: folder to write to; made where it is missing, files of the same names are replaced.
        refine: as for the model's `forward`.
        batch_size: images segmented together; the results are the same, but for pixels where two classes are equally
            likely and rounding in larger products decides.
        num_workers: processes that decode and resize images while the model computes, and threads that draw and
            encode results. With 0 nothing is done beside the model's work.

    Yields:
        One [`ImageReport`] per file, in order. An image that cannot be read or segmented gets an `error` and no
        results.

    Raises:
        `OSError`: the results cannot be written.
        `ValueError`: `batch_size` is less than 1, or `num_workers` less than 0.
    """
    paths = list(images)
    loader = torch.utils.data.DataLoader(
        ImageFiles(paths, processor),
        batch_size,
        num_workers=min(num_workers, max(len(paths) - 1, 0)),  # the loader refuses less than 0
        collate_fn=list,
    )
    remaining, saving = iter(paths), deque()
    with ThreadPoolExecutor(max(num_workers, 1)) as threads:
        for batch in loader:
            for prediction, path in zip(predict_what_can_be(model, batch, refine), remaining, strict=False):
                saving.append(threads.submit(save_prediction, prediction, path, images[path], output, model.config))
            # One batch is drawn and encoded while the next is computed; more would pile up.
            while len(saving) > (batch_size if num_workers else 0):
                yield saving.popleft().result()
        while saving:
            yield saving.popleft().result()


def save_prediction(
    prediction: Prediction | str, path: Path, name: str, output: str | os.PathLike, config: VFMSegConfig
) -> ImageReport:
    """Draw and write the results of an image, unless there is only a reason why it has none."""
    if isinstance(prediction, str):
        return ImageReport(path, error=prediction)
    try:
        files = render_files(prediction, name, path.name, config)
    except (OSError, ValueError) as error:
        return ImageReport(path, error=str(error))
    for relative, content in files.items():
        write_file(Path(output) / relative, content)
    return ImageReport(path, windows=len(prediction.refined), refined=int(prediction.refined.sum()))


def predict_what_can_be(
    model: VFMSegForSemanticSegmentation, batch: Sequence[PreparedImage | str], refine: bool | str
) -> list[Prediction | str]:
    """The predictions of a batch's images; in words why not, for those that fail alone or were not read at all."""
    good = [item for item in batch if not isinstance(item, str)]
    try:
        predictions, reason = iter(predict_images(model, good, refine) if good else []), None
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not is_out_of_memory(error):
            raise
        reason = str(error)
    if reason is not None and len(good) == 1:
        predictions = iter([reason])
    elif reason is not None:  # outside the handler, whose traceback would hold on to the memory of the batch
        predictions = iter([predict_what_can_be(model, [item], refine)[0] for item in good])
    return [item if isinstance(item, str) else next(predictions) for item in batch]


def draw_panel(
    prediction: Prediction, title: str, config: VFMSegConfig, truth: np.ndarray | None = None
) -> Image.Image:
    """What [`panel_image`] shows of a prediction; `config` is the model's, `truth` a label map of the image."""
    return panel_image(
        prediction.image,
        prediction.coarse_labels,
        prediction.confidence / np.float32(255),
        prediction.windows,
        prediction.certainty,
        prediction.refined,
        prediction.labels,
        config.id2label,
        getattr(config, "confidence_threshold", VFMSegConfig.confidence_threshold),
        truth=truth,
        title=f"{title} ({prediction.image.width} x {prediction.image.height})",
    )


def render_files(prediction: Prediction, name: str, title: str, config: VFMSegConfig) -> dict[str, bytes]:
    """The encoded result files of an image by their path below the output folder; `config` is the model's."""
    colours = class_colours(config.id2label)
    panel = draw_panel(prediction, title, config)
    overlay = overlay_image(prediction.image, prediction.labels, colours)
    written_by = PngInfo()
    written_by.add_text("Software", SOFTWARE)
    contents = (
        encode_image(label_image(prediction.labels, colours), "PNG", pnginfo=written_by),
        encode_image(overlay, "JPEG", quality=90),
        encode_image(panel, "PNG"),
    )
    return dict(zip(result_files(name), contents, strict=True))

# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Options that several commands have, under the same words, and what they mean."""

import argparse
from collections.abc import Mapping, Sequence

import torch
from transformers.configuration_utils import PreTrainedConfig

from ..data.domains import CLASS_MAP_HELP, ID2LABEL_HELP
from ..evaluation.counting import looks_twice
from ..methods import OtherModel, model_class_of
from ..model.foundation import read_config
from ..prediction.predict import DTYPES, REFINE_MODES, choose_device, load_model
from ..utils.image_files import MAX_IMAGE_PIXELS, MAX_IMAGE_PIXELS_HELP
from .options import fraction, whole_number


MODEL = ("model", "backbone_name_or_path", "revision")
COMPUTING = ("device", "dtype", "batch_size", "num_workers", "max_image_pixels")
DETAIL = ("refine", "max_windows", "max_window_share")


def add_model_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Which trained model, and where its parts are."""
    parser.add_argument(
        "--model", required=required, metavar="MODEL", help="folder of a trained model or adapter, or its Hub id"
    )
    parser.add_argument(
        "--backbone_name_or_path",
        metavar="MODEL",
        help="of an adapter: where its foundation model is, if not where the adapter says",
    )
    parser.add_argument("--revision", help="of a model of the Hub: branch, tag or commit")


def add_inference_options(parser: argparse.ArgumentParser, num_workers: int, workers_do: str) -> None:
    """How the two stages are computed, and where."""
    parser.add_argument(
        "--size",
        nargs="+",
        type=whole_number(1),
        metavar="PIXELS",
        help="shortest and longest edge that images are fitted into before the model sees them; one number is the "
        "shortest; by default the model's own",
    )
    parser.add_argument(
        "--refine",
        choices=list(REFINE_MODES),
        default="gated",
        help="which windows are looked at again in detail: those where the first look was unsure (gated), all of them "
        "(slower), or none (fastest)",
    )
    parser.add_argument(
        "--max_windows", type=whole_number(0), metavar="N", help="refine at most N windows of an image, the unsurest"
    )
    parser.add_argument(
        "--max_window_share", type=fraction, metavar="SHARE", help="refine at most this share of an image's windows"
    )
    parser.add_argument("--device", default="auto", help="where to compute, e.g. cpu or cuda:1; auto: the GPU if any")
    parser.add_argument(
        "--dtype",
        choices=list(DTYPES),
        default="float32",
        help="what the model computes in: halves are faster on GPUs, int8 on CPUs; they decide a few pixels otherwise",
    )
    parser.add_argument("--batch_size", type=whole_number(1), default=1, metavar="N", help="images segmented together")
    parser.add_argument("--num_workers", type=whole_number(0), default=num_workers, metavar="N", help=workers_do)
    add_pixel_limit(parser)


def add_pixel_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--max_image_pixels", default=MAX_IMAGE_PIXELS, metavar="N", help=MAX_IMAGE_PIXELS_HELP)


def add_class_options(parser: argparse.ArgumentParser, class_map_more: str = "") -> None:
    """What the classes of the data are called, and which of the model's they are."""
    parser.add_argument("--class_map", metavar="FILE", help=f"{CLASS_MAP_HELP}{class_map_more}")
    parser.add_argument("--id2label", metavar="FILE", help=ID2LABEL_HELP)


def edges_as_size(edges: Sequence[int] | None) -> int | dict[str, int] | None:
    """What `--size` means to the image processor, of which one integer is the shortest edge; None where not given."""
    if edges is None:
        return None
    if len(edges) > 2 or min(edges) < 1 or list(edges) != sorted(edges):
        given = " ".join(map(str, edges))
        raise ValueError(f"--size takes SHORTEST LONGEST, e.g. 1024 2048, or the shortest edge alone; got {given}")
    return edges[0] if len(edges) == 1 else dict(zip(("shortest_edge", "longest_edge"), edges, strict=True))


def window_limits(max_windows: int | None, max_window_share: float | None) -> Mapping[str, object]:
    """
    The two options as fields of the model's configuration; none where neither is given, so that its own hold.

    Raises:
        ValueError: both are given.
    """
    limits = {"max_windows": max_windows, "max_window_share": max_window_share}
    given = [value for value in limits.values() if value is not None]
    if len(given) > 1:
        raise ValueError("--max_windows and --max_window_share both limit the windows; leave one of them out")
    return limits if given else {}  # one replaces the other


def load(arguments: argparse.Namespace, device: str):
    """Model and image processor as the options of [`add_model_options`] and [`add_inference_options`] say."""
    model, processor = load_model(
        arguments.model,
        device,
        getattr(torch, arguments.dtype),
        revision=arguments.revision,
        backbone_name_or_path=arguments.backbone_name_or_path,
        size=edges_as_size(arguments.size),
        **window_limits(arguments.max_windows, arguments.max_window_share),
    )
    if arguments.refine != "gated" and not looks_twice(model):
        raise ValueError(
            f"a {model.config.model_type} model looks at an image once, and refines no windows; leave --refine "
            f"{arguments.refine} out"
        )
    return model, processor


def config_of_other(arguments: argparse.Namespace) -> PreTrainedConfig | None:
    """The configuration of `--model` if it is neither VFMSeg's nor a method's; None too if it cannot be read."""
    hub = {} if arguments.revision is None else {"revision": arguments.revision}
    try:
        config = read_config(arguments.model, hub)
    except (OSError, ValueError):
        return None  # loading says why
    return config if model_class_of(config) is None else None


def load_other(arguments: argparse.Namespace, config: PreTrainedConfig, device: str) -> OtherModel:
    """
    A segmentation model of transformers, as the options of [`add_model_options`] and [`add_inference_options`] say.

    Raises:
        ValueError: there is none, or an option is for VFMSeg's models alone.
    """
    of_vfmseg = ("size", "max_windows", "max_window_share", "backbone_name_or_path")
    given = [name for name in of_vfmseg if getattr(arguments, name) is not None]
    given += ["refine"] if arguments.refine != "gated" else []
    given += ["dtype int8"] if arguments.dtype == "int8" else []
    if given:
        raise ValueError(
            f"{arguments.model} is no VFMSeg model and sees images as its own image processor has them; leave "
            f"--{given[0]} out"
        )
    hub = {} if arguments.revision is None else {"revision": arguments.revision}
    try:
        model = OtherModel.from_pretrained(arguments.model, config, **hub)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ValueError(f"cannot score {arguments.model}: {error}") from error
    return model.to(choose_device(device), getattr(torch, arguments.dtype))

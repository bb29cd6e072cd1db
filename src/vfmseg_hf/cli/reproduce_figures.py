# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""What the figures of `vfmseg reproduce` are told alike: which models, which domains, where the results go."""

import argparse
from pathlib import Path

from ..methods import RawImages
from ..reproduce import ShownModel, models_of
from ..utils.image_files import limit_pixels
from .common import add_pixel_limit, config_of_other, load, load_other
from .options import EARLIER, check_figure, check_output_folder, earlier_models, named_model


def add_figure_options(parser: argparse.ArgumentParser, output: str) -> None:
    """Models, domains and where to compute."""
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="models to show, [name=]folder or Hub id each: of VFMSeg, of its methods, or another segmentation model "
        "of transformers",
    )
    parser.add_argument(
        "--from",
        dest="earlier",
        metavar="DIR",
        help="folder of an earlier `vfmseg reproduce`, or of one of its settings: the models of its first seed are "
        f"shown before those of --models; without --models it is {EARLIER}",
    )
    parser.add_argument(
        "--eval_data",
        nargs="+",
        required=True,
        metavar="DOMAIN",
        help="domains: [name=]dataset[@split] each",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(output),
        help="folder for the results; procedural scenes are kept in it too",
    )
    parser.add_argument("--device", default="auto", help="where to compute, e.g. cpu or cuda:1; auto: the GPU if any")
    add_pixel_limit(parser)


def start_figure(arguments: argparse.Namespace) -> list[ShownModel]:
    """
    The models of a figure, loaded, after a check of what was asked for.

    Raises:
        ValueError, OSError: there is no such model, or two have one name.
    """
    check_figure(arguments)
    check_output_folder(arguments.output)
    limit_pixels(arguments.max_image_pixels)
    earlier = earlier_models(arguments)
    places = [] if earlier is None else [(name, str(place)) for name, place in models_of(Path(earlier)).items()]
    places += map(named_model, arguments.models or ())
    names = [name for name, _ in places]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"--from {earlier} has a model {twice!r} too; name that of --models otherwise: other=...")
    return [_load(name, place, arguments.device) for name, place in places]


def _load(name: str, place: str, device: str) -> ShownModel:
    told = argparse.Namespace(
        model=place,
        device=device,
        dtype="float32",
        refine="gated",
        **dict.fromkeys(("revision", "backbone_name_or_path", "size", "max_windows", "max_window_share")),
    )
    if other := config_of_other(told):
        return ShownModel(name, place, load_other(told, other, device), RawImages())
    return ShownModel(name, place, *load(told, device))

# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Image files in; label maps, overlays and panels out."""

from ..utils.old_names import old_names
from .predict import (
    DTYPES,
    REFINE_MODES,
    ImageReport,
    Prediction,
    PreparedImage,
    choose_device,
    draw_panel,
    find_images,
    load_model,
    predict_files,
    predict_image,
    predict_images,
    prepare_image,
    render_files,
    save_prediction,
)


__all__ = [
    "DTYPES",
    "REFINE_MODES",
    "ImageReport",
    "Prediction",
    "PreparedImage",
    "choose_device",
    "draw_panel",
    "find_images",
    "load_model",
    "predict_files",
    "predict_image",
    "predict_images",
    "prepare_image",
    "render_files",
    "save_prediction",
]

__getattr__ = old_names(
    __name__,
    {
        "PictureReport": "ImageReport",
        "PreparedPicture": "PreparedImage",
        "find_pictures": "find_images",
        "predict_picture": "predict_image",
        "predict_pictures": "predict_images",
        "prepare_picture": "prepare_image",
    },
)

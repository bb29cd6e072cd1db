# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Picture files in; label maps, overlays and panels out."""

from .predict import (
    DTYPES,
    REFINE_MODES,
    PictureReport,
    Prediction,
    PreparedPicture,
    choose_device,
    draw_panel,
    find_pictures,
    load_model,
    predict_files,
    predict_picture,
    predict_pictures,
    prepare_picture,
    render_files,
    save_prediction,
)


__all__ = [
    "DTYPES",
    "REFINE_MODES",
    "PictureReport",
    "Prediction",
    "PreparedPicture",
    "choose_device",
    "draw_panel",
    "find_pictures",
    "load_model",
    "predict_files",
    "predict_picture",
    "predict_pictures",
    "prepare_picture",
    "render_files",
    "save_prediction",
]

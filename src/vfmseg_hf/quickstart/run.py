# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The main job in small: train on a clean game-like street, hold on streets that look different, with no download."""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..data import open_dataset
from ..evaluation import confusion_matrix, evaluate_domain, iou_scores
from ..evaluation.baselines import ColourLookup, PositionPrior
from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..model.image_processing_vfmseg import VFMSegImageProcessor
from ..model.labels import CITYSCAPES_ID2LABEL
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..prediction.predict import draw_panel, predict_image
from ..prediction.visualization import domains_image
from ..training import Augmentation, EvaluationImages, TrainingImages, VFMSegTrainer, VFMSegTrainingArguments
from ..training.callbacks import TrainingStopped
from ..utils.files import encode_image, write_file
from .conclusions import (
    COLOUR_STEPS,
    METHODS,
    SOURCE,
    UNSEEN,
    Scores,
    draw_conclusions,
    format_scores,
    group_means,
    write_results,
)
from .settings import QuickstartSettings, quickstart_config


Row = Mapping[str, object]
RESULTS = ("results.json", "domains.png", "panels", "model", "training")  # the record of the settings goes last


def draw_images(domain: str, split: str, count: int, settings: QuickstartSettings) -> list[Row]:
    """Rows of a domain of `streets`, rendered once and kept: training reads each image many times."""
    spec = f"streets:{domain}?n={count}&size={settings.height}x{settings.width}&seed=0"
    return [dict(row) for row in tqdm(open_dataset(spec, split), desc=f"draw {domain}", unit="image")]


def make_trainer(rows: Sequence[Row], settings: QuickstartSettings, output_dir: str | os.PathLike) -> VFMSegTrainer:
    """A trainer for a new model on the source, everything seeded; checkpoints at every quarter of the run."""
    set_seed(settings.seed)
    model = VFMSegForSemanticSegmentation(quickstart_config())
    processor = VFMSegImageProcessor(do_resize=False)
    arguments = VFMSegTrainingArguments(
        output_dir=str(output_dir),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        encoder_learning_rate=settings.learning_rate,
        # Random weights at such a rate need a warm-up, and second moments that forget the first steps soon.
        warmup_steps=min(60, settings.steps // 10),
        adam_beta2=0.95,
        logging_steps=max(1, min(25, settings.steps // 4)),
        save_steps=max(1, settings.steps // 4),
        save_total_limit=1,
        seed=settings.seed,
        use_cpu=True,
        report_to="none",
    )
    images = TrainingImages(rows, processor, Augmentation((settings.height, settings.height)), settings.seed)
    return VFMSegTrainer(model, arguments, train_dataset=images, processing_class=processor)


def prepare_output(output: Path, settings: QuickstartSettings, resume: bool) -> str | None:
    """
    Clear the folder of an earlier run, or find what a run in it can go on from.

    Returns:
        The last checkpoint; `None` to train from the start.

    Raises:
        ValueError: if the folder holds a run with other settings, or files that no quickstart has written.
    """
    record = output / "training" / "settings.json"
    found = [name for name in RESULTS if (output / name).exists()]
    if found and not record.is_file():
        raise ValueError(f"{output} holds {', '.join(found)}, which no quickstart wrote; choose another folder")
    if resume and record.is_file():
        earlier = json.loads(record.read_text())
        if earlier != asdict(settings):
            differing = {key: value for key, value in earlier.items() if asdict(settings).get(key) != value}
            raise ValueError(
                f"{output} holds a run with {differing}, which is not what was asked for; resume with the same, or "
                "choose another folder"
            )
        return get_last_checkpoint(str(output / "training"))
    for name in found:
        path = output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_file(record, json.dumps(asdict(settings)) + "\n")
    return None


def reload_model(
    directory: str | os.PathLike, trained: VFMSegForSemanticSegmentation, image: Image.Image
) -> tuple[VFMSegForSemanticSegmentation, VFMSegImageProcessorMixin]:
    """
    A saved model through the Auto classes, after a check that it, and the pipeline, still say the same.

    Raises:
        ValueError: if the reloaded model or the pipeline labels `image` otherwise than `trained` does.
    """
    processor = AutoImageProcessor.from_pretrained(directory)
    model = AutoModelForSemanticSegmentation.from_pretrained(directory).eval()
    expected = predict_image(trained.eval(), processor, image).labels
    masks = np.zeros_like(expected)
    for piece in pipeline("image-segmentation", model=str(directory), device=trained.device)(image):
        masks[np.asarray(piece["mask"]) > 0] = model.config.label2id[piece["label"]]
    for name, labels in (
        ("AutoModelForSemanticSegmentation", predict_image(model, processor, image).labels),
        ("pipeline", masks),
    ):
        if not np.array_equal(labels, expected):
            share = np.mean(labels != expected)
            raise ValueError(f"{name} labels {share:.2%} of the pixels otherwise than the trained model in {directory}")
    return model, processor


def score_references(rows: Sequence[Row], references: Mapping[str, PositionPrior | ColourLookup]) -> dict:
    """`iou_scores` of each reference on a domain."""
    count = len(CITYSCAPES_ID2LABEL)
    return {
        name: iou_scores(
            sum(confusion_matrix(reference.predict(row["image"]), np.array(row["label"]), count) for row in rows)
        )
        for name, reference in references.items()
    }


def run_quickstart(
    output: str | os.PathLike,
    settings: QuickstartSettings | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Scores:
    """
    Train, save, reload, score, draw.

    Args:
        output: folder for `training/` (checkpoints), `model/`, `panels/`, `domains.png` and `results.json`.
        resume: go on from the last checkpoint in `output`; from the start if there is none. Otherwise the results of
            an earlier run in `output` are removed first.
        say: takes the lines that a user reads.

    Returns:
        Mean IoU (0..1) by domain, method (`METHODS`) and class group (`GROUPS`).

    Raises:
        ValueError: if `output` holds another run to resume, or the saved model does not come back as it was.
        TrainingStopped: on SIGTERM and Ctrl-C, after a checkpoint.
    """
    settings, output, start = settings or QuickstartSettings(), Path(output), time.perf_counter()
    checkpoint = prepare_output(output, settings, resume)
    rows = draw_images(SOURCE, "train", settings.train_images, settings)
    trainer = make_trainer(rows, settings, output / "training")
    parameters = trainer.model.num_parameters()
    say(
        f"Training {parameters / 1e6:.1f} million weights on {len(rows)} images of the domain {SOURCE!r}. The "
        "encoder starts from random weights, so there is nothing to preserve and all of it trains; with a foundation "
        "model, only LoRA and the heads would."
    )
    if checkpoint:
        say(f"Going on from {checkpoint}.")
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.stopped_by:
        raise TrainingStopped(trainer.stopped_by)
    trainer.save_model(str(output / "model"))
    trained = time.perf_counter()

    model, processor = reload_model(output / "model", trainer.model, rows[0]["image"])
    say(f"Saved to {output / 'model'}; AutoModelForSemanticSegmentation and pipeline give the trained model's labels.")
    pairs = [(np.array(row["image"]), np.array(row["label"])) for row in rows]
    references = {
        "position prior": PositionPrior([label for _, label in pairs], model.config.num_labels),
        **{f"{steps}-step lookup": ColourLookup(pairs, model.config.num_labels, steps) for steps in COLOUR_STEPS},
    }
    domains, details, shown = {}, {}, {}
    for domain in (SOURCE, *UNSEEN):
        # Not "validation": the settings above were chosen by looking at that split.
        test = draw_images(domain, "test", settings.test_images, settings)
        images = EvaluationImages(test, processor)
        progress = partial(tqdm, desc=f"score {domain}", unit="image")
        domains[domain] = evaluate_domain(model, images, domain, progress=progress)
        details[domain] = score_references(test, references) | domains[domain].scores
        shown[domain] = predict_image(model, processor, test[0]["image"])
        panel = draw_panel(shown[domain], test[0]["file_name"], model.config, truth=np.array(test[0]["label"]))
        write_file(output / "panels" / f"{domain}.png", encode_image(panel, "PNG"))
    columns = {f"{name} (source)" if name == SOURCE else name: prediction for name, prediction in shown.items()}
    overview = domains_image(
        {name: prediction.image for name, prediction in columns.items()},
        {name: prediction.labels for name, prediction in columns.items()},
        np.array(test[0]["label"]),
        model.config.id2label,
        "Trained on the first look of the street only; predictions under the images",
    )
    write_file(output / "domains.png", encode_image(overview, "PNG"))
    labelled = np.isin(np.arange(model.config.num_labels), np.concatenate([np.unique(row["label"]) for row in test]))
    scores = {
        domain: {method: group_means(methods[method], labelled) for method in METHODS}
        for domain, methods in details.items()
    }
    seconds = time.perf_counter() - start
    write_results(output / "results.json", settings, scores, details, parameters, seconds, checkpoint is not None)
    say("\n" + format_scores(scores) + "\n")
    for line in draw_conclusions(scores):
        say(line)
    refined = ", ".join(f"{name} {100 * domain.refined:.0f} %" for name, domain in domains.items())
    say(f"Windows refined: {refined}.")
    say(
        f"{seconds:.0f} s{' since the run went on' if checkpoint else ''}, of which {trained - start:.0f} s for "
        "drawing and training. Look at "
        f"{output / 'domains.png'} and {output / 'panels'}; all figures are in {output / 'results.json'}."
    )
    return scores

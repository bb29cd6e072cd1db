# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The main job in small: train on a clean game-like street, hold on streets that look different, with no download."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline, set_seed

from ..baselines import ColourLookup, PositionPrior
from ..configuration_vfmseg import VFMSegConfig
from ..corpora import load_corpus
from ..evaluation import evaluate_domain
from ..files import encode_picture, write_file
from ..image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..image_processing_vfmseg import VFMSegImageProcessor
from ..labels import CITYSCAPES_ID2LABEL
from ..metrics import confusion_matrix, iou_scores
from ..modeling_vfmseg import VFMSegForSemanticSegmentation
from ..prediction import Prediction, predict_picture
from ..training import Augmentation, EvaluationPictures, TrainingPictures, VFMSegTrainer, VFMSegTrainingArguments
from ..visualization import domains_image, panel_image
from .report import METHODS, SOURCE, UNSEEN, Scores, draw_conclusions, format_scores, group_means, write_results
from .settings import QuickstartSettings, quickstart_config


Row = Mapping[str, object]


def draw_pictures(domain: str, split: str, count: int, settings: QuickstartSettings) -> list[Row]:
    """Rows of a domain of `streets`, rendered once and kept: training reads each picture many times."""
    spec = f"streets:{domain}?n={count}&size={settings.height}x{settings.width}&seed=0"
    return [dict(row) for row in tqdm(load_corpus(spec, split), desc=f"draw {domain}", unit="picture")]


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
    )
    pictures = TrainingPictures(rows, processor, Augmentation((settings.height, settings.height)), settings.seed)
    return VFMSegTrainer(model, arguments, train_dataset=pictures, processing_class=processor)


def reload_model(
    directory: str | os.PathLike, trained: VFMSegForSemanticSegmentation, image: Image.Image
) -> tuple[VFMSegForSemanticSegmentation, VFMSegImageProcessorMixin]:
    """
    A saved model through the Auto classes, after a check that it, and the pipeline, still say the same.

    Raises:
        RuntimeError: if the reloaded model or the pipeline labels `image` otherwise than `trained` does.
    """
    processor = AutoImageProcessor.from_pretrained(directory)
    model = AutoModelForSemanticSegmentation.from_pretrained(directory).eval()
    expected = predict_picture(trained.eval(), processor, image).labels
    masks = np.zeros_like(expected)
    for piece in pipeline("image-segmentation", model=str(directory))(image):
        masks[np.asarray(piece["mask"]) > 0] = model.config.label2id[piece["label"]]
    for name, labels in (
        ("AutoModelForSemanticSegmentation", predict_picture(model, processor, image).labels),
        ("pipeline", masks),
    ):
        if not np.array_equal(labels, expected):
            share = np.mean(labels != expected)
            raise RuntimeError(
                f"{name} labels {share:.2%} of the pixels otherwise than the trained model in {directory}"
            )
    return model, processor


def score_references(rows: Sequence[Row], references: Mapping[str, PositionPrior | ColourLookup]) -> dict:
    """`metrics.iou_scores` of each reference on a domain."""
    count = len(CITYSCAPES_ID2LABEL)
    return {
        name: iou_scores(
            sum(confusion_matrix(reference.predict(row["image"]), np.array(row["label"]), count) for row in rows)
        )
        for name, reference in references.items()
    }


def draw_panel(prediction: Prediction, row: Row, config: VFMSegConfig) -> Image.Image:
    """Input, coarse result, certainty and refined windows, final result and ground truth of one row."""
    return panel_image(
        prediction.picture,
        prediction.coarse_labels,
        prediction.confidence,
        prediction.windows,
        prediction.certainty,
        prediction.refined,
        prediction.labels,
        config.id2label,
        config.confidence_threshold,
        truth=np.array(row["label"]),
        title=row["file_name"],
    )


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
        resume: go on from the last checkpoint in `output`.
        say: takes the lines that a user reads.

    Returns:
        Mean IoU (0..1) by domain, method (`METHODS`) and class group (`GROUPS`).
    """
    settings, output, start = settings or QuickstartSettings(), Path(output), time.perf_counter()
    rows = draw_pictures(SOURCE, "train", settings.train_pictures, settings)
    trainer = make_trainer(rows, settings, output / "training")
    parameters = trainer.model.num_parameters()
    say(
        f"Training {parameters / 1e6:.1f} million weights on {len(rows)} pictures of the domain {SOURCE!r}. The "
        "encoder starts from random weights, so there is nothing to preserve and all of it trains; with a foundation "
        "model, only LoRA and the heads would."
    )
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model(str(output / "model"))
    trained = time.perf_counter()

    model, processor = reload_model(output / "model", trainer.model, rows[0]["image"])
    say(f"Saved to {output / 'model'}; AutoModelForSemanticSegmentation and pipeline give the trained model's labels.")
    pairs = [(np.array(row["image"]), np.array(row["label"])) for row in rows]
    references = {
        "position prior": PositionPrior([label for _, label in pairs], model.config.num_labels),
        "colour lookup": ColourLookup(pairs, model.config.num_labels),
    }
    domains, details, shown = {}, {}, {}
    for domain in (SOURCE, *UNSEEN):
        # Not "validation": the settings above were chosen by looking at that split.
        test = draw_pictures(domain, "test", settings.test_pictures, settings)
        pictures = EvaluationPictures(test, processor)
        progress = lambda items, domain=domain: tqdm(items, desc=f"score {domain}", unit="picture")  # noqa: E731
        domains[domain] = evaluate_domain(model, pictures, domain, progress=progress)
        details[domain] = score_references(test, references) | domains[domain].scores
        shown[domain] = predict_picture(model, processor, test[0]["image"])
        panel = draw_panel(shown[domain], test[0], model.config)
        write_file(output / "panels" / f"{domain}.png", encode_picture(panel, "PNG"))
    columns = {f"{name} (source)" if name == SOURCE else name: prediction for name, prediction in shown.items()}
    overview = domains_image(
        {name: prediction.picture for name, prediction in columns.items()},
        {name: prediction.labels for name, prediction in columns.items()},
        np.array(test[0]["label"]),
        model.config.id2label,
        "Trained on the first look of the street only; predictions under the pictures",
    )
    write_file(output / "domains.png", encode_picture(overview, "PNG"))
    scores = {
        domain: {method: group_means(details[domain][method]) for method in METHODS} for domain in (SOURCE, *UNSEEN)
    }
    seconds = time.perf_counter() - start
    write_results(output / "results.json", settings, scores, details, parameters, seconds)
    say("\n" + format_scores(scores) + "\n")
    for line in draw_conclusions(scores):
        say(line)
    refined = ", ".join(f"{name} {100 * domain.refined:.0f} %" for name, domain in domains.items())
    say(f"Windows refined: {refined}.")
    say(
        f"{seconds:.0f} s, of which {trained - start:.0f} s for drawing and training. Look at "
        f"{output / 'domains.png'} and {output / 'panels'}; all figures are in {output / 'results.json'}."
    )
    return scores

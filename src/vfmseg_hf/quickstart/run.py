# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""The main job in small: train on a clean game-like street, hold on streets that look different, and on photographs."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import ConcatDataset
from tqdm import tqdm
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, pipeline, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..convert import encoder_source
from ..data import describe_dataset, open_dataset
from ..data.parallel import read_in_parallel
from ..evaluation import STAGES, confusion_matrix, evaluate_domain, iou_scores
from ..evaluation.baselines import ColourLookup, PositionPrior
from ..model.encoders import get_encoder_family
from ..model.image_processing_pil_vfmseg import VFMSegImageProcessorMixin
from ..model.image_processing_vfmseg import VFMSegImageProcessor
from ..model.labels import CITYSCAPES_ID2LABEL
from ..model.modeling_vfmseg import VFMSegForSemanticSegmentation
from ..prediction.predict import Prediction, draw_panel, predict_files, predict_image
from ..prediction.visualization import domains_image
from ..training import Augmentation, EvaluationImages, TrainingImages, VFMSegTrainer, VFMSegTrainingArguments
from ..training.callbacks import TrainingStopped
from ..utils.files import encode_image, write_file
from .conclusions import (
    COLOUR_STEPS,
    LINEAR,
    SOURCE,
    UNSEEN,
    Scores,
    draw_conclusions,
    format_scores,
    group_means,
    write_results,
)
from .linear import LinearHead
from .settings import FOUNDATION, TOY, QuickstartSettings, load_frozen, make_model, rare_class_weights


Row = Mapping[str, object]
PREDICTIONS = "predictions"  # of the user's own images
# The record of the settings goes last.
RESULTS = ("results.json", "domains.png", "panels", PREDICTIONS, "model", "training")
CAMVID = {"CamVid day": "source_val", "CamVid dusk": "target_dusk"}


def draw_images(settings: QuickstartSettings) -> tuple[list[Row], dict[str, list[Row]]]:
    """Rows of `streets` to train on, and to test on by domain, rendered once and kept: each is read many times."""
    # Not "validation": the settings were chosen by looking at that split.
    wanted = [(SOURCE, "train", settings.train_images)]
    wanted += [(domain, "test", settings.test_images) for domain in (SOURCE, *UNSEEN)]
    options = f"size={settings.height}x{settings.width}&seed=0&version={settings.version}"
    parts = [open_dataset(f"streets:{domain}?n={count}&{options}", split) for domain, split, count in wanted]
    rows = map(dict, read_in_parallel(ConcatDataset(parts), None, "drawing streets"))
    training, *tests = ([*islice(rows, len(part))] for part in parts)
    return training, dict(zip((SOURCE, *UNSEEN), tests, strict=True))


def make_trainer(
    rows: Sequence[Row],
    settings: QuickstartSettings,
    output_dir: str | os.PathLike,
    encoder: str | os.PathLike | None = None,
) -> VFMSegTrainer:
    """A trainer for a new model on the source, everything seeded; checkpoints at every quarter of the run."""
    set_seed(settings.seed)
    size = settings.size
    processor = VFMSegImageProcessor(size={"shortest_edge": min(size), "longest_edge": max(size)})
    count = len(CITYSCAPES_ID2LABEL)
    pixels = np.stack([np.bincount(np.array(row["label"]).ravel(), minlength=count)[:count] for row in rows])
    augmentation = Augmentation((min(size), min(size)), resize=size)
    images = TrainingImages(rows, processor, augmentation, settings.seed, class_pixels=pixels)
    model = make_model(settings, encoder)
    if settings.rare_class_power:
        model.config.class_weights = rare_class_weights(pixels.sum(0), settings.rare_class_power)
    arguments = VFMSegTrainingArguments(
        output_dir=str(output_dir),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        encoder_learning_rate=settings.encoder_learning_rate,
        # Random weights at such a rate need a warm-up, and second moments that forget the first steps soon.
        warmup_steps=min(60, settings.steps // 10),
        adam_beta2=0.95,
        logging_steps=max(1, min(25, settings.steps // 4)),
        save_steps=max(1, settings.steps // 4),
        save_total_limit=1,
        seed=settings.seed,
        use_cpu=True,
        bf16=choose_products(encoder) == "bfloat16",
        scale_heads=encoder is not None,
        max_grad_norm=1.0 if encoder is not None else 0.0,
        rare_class_sampling=settings.rare_class_sampling,
        rare_class_min_pixels=64,
        rare_class_crop_ratio=1.0,
        report_to="none",
    )
    return VFMSegTrainer(model, arguments, train_dataset=images, processing_class=processor)


def choose_products(encoder: str | os.PathLike | None) -> str:
    """`"bfloat16"` on a foundation model where the processor multiplies matrices in it, otherwise `"float32"`."""
    known = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    fast = encoder is not None and any(has is not None and has() for has in known)
    return "bfloat16" if fast else "float32"


def prepare_output(
    output: Path,
    settings: QuickstartSettings,
    resume: bool,
    encoder: Mapping[str, str] | None = None,
    products: str = "float32",
) -> str | None:
    """
    Clear the folder of an earlier run, or find what a run in it can go on from.

    Returns:
        The last checkpoint; `None` to train from the start.

    Raises:
        ValueError: if the folder holds a run with other settings, or files that no quickstart has written.
    """
    record = output / "training" / "settings.json"
    now = {**asdict(settings), "encoder": encoder, "products": products}
    found = [name for name in RESULTS if (output / name).exists()]
    if found and not record.is_file():
        raise ValueError(f"{output} holds {', '.join(found)}, which no quickstart wrote; choose another folder")
    if resume and record.is_file():
        earlier = json.loads(record.read_text())
        if earlier != now:
            differing = {key: earlier.get(key) for key in {**earlier, **now} if earlier.get(key) != now.get(key)}
            raise ValueError(
                f"{output} holds a run with {differing}, which is not what was asked for; resume with the same, or "
                "choose another folder"
            )
        return get_last_checkpoint(str(output / "training"))
    for name in found:
        path = output / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_file(record, json.dumps(now) + "\n")
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


def score_references(rows: Sequence[Row], references: Mapping[str, object]) -> dict:
    """`iou_scores` of each reference on a domain; references have a `predict`."""
    return {name: iou_scores(count_pixels(rows, reference)) for name, reference in references.items()}


def count_pixels(rows: Sequence[Row], reference: PositionPrior | ColourLookup | LinearHead) -> np.ndarray:
    count = len(CITYSCAPES_ID2LABEL)
    return sum(confusion_matrix(reference.predict(row["image"]), np.array(row["label"]), count) for row in rows)


def describe_encoder(encoder: str | os.PathLike | None) -> dict[str, str] | None:
    """Where a foundation model comes from, and its licence; `None` for none."""
    if encoder is None:
        return None
    if origin := encoder_source(encoder):
        return {"source": origin.source, "licence": origin.licence}
    return {"source": f"the folder {os.path.abspath(encoder)}", "licence": "not known"}


def run_quickstart(
    output: str | os.PathLike,
    settings: QuickstartSettings | None = None,
    resume: bool = False,
    say: Callable[[str], None] = print,
    *,
    encoder: str | os.PathLike | None = None,
    images: Mapping[Path, str] | None = None,
    camvid: str | os.PathLike | None = None,
) -> Scores:
    """
    Train, save, reload, score, draw.

    Args:
        output: folder for `training/` (checkpoints), `model/`, `panels/`, `predictions/`, `domains.png` and
            `results.json`.
        settings: by default `FOUNDATION`, or `TOY` without an encoder.
        resume: go on from the last checkpoint in `output`; from the start if there is none. Otherwise the results of
            an earlier run in `output` are removed first.
        say: takes the lines that a user reads.
        encoder: directory of a foundation model, from `convert.cached_encoder`. Without one, a toy of random weights.
        images: own image files to segment with the trained model, from `find_images`.
        camvid: folder of the dataset `camvid`, to score the model on photographs as well.

    Returns:
        Mean IoU (0..1) by domain, method (of `METHODS`) and class group (`GROUPS`).

    Raises:
        ValueError: if `output` holds another run to resume, or the saved model does not come back as it was.
        TrainingStopped: on SIGTERM and Ctrl-C, after a checkpoint.
    """
    settings = settings or (TOY if encoder is None else FOUNDATION)
    return Quickstart(Path(output), settings, say, encoder).run(resume, images or {}, camvid)


class Quickstart:
    """One run of [`run_quickstart`], with what its parts share."""

    def __init__(
        self,
        output: Path,
        settings: QuickstartSettings,
        say: Callable[[str], None],
        encoder: str | os.PathLike | None,
    ):
        self.output, self.settings, self.say, self.encoder = output, settings, say, encoder
        self.origin = describe_encoder(encoder)
        self.products = choose_products(encoder)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def run(self, resume: bool, images: Mapping[Path, str], camvid: str | os.PathLike | None) -> Scores:
        settings = self.settings
        checkpoint = prepare_output(self.output, settings, resume, self.origin, self.products)
        with self.timed("drawing"):
            rows, tests = draw_images(settings)
        with self.timed("training"):
            trained, parameters = self.train(rows, checkpoint)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.products == "bfloat16"):
            scores, model, processor = self.score(rows, tests, trained, parameters, checkpoint, camvid)
            if images:
                self.segment(images, model, processor)
        return scores

    def score(
        self,
        rows: Sequence[Row],
        tests: Mapping[str, Sequence[Row]],
        trained: VFMSegForSemanticSegmentation,
        parameters: Mapping[str, int],
        checkpoint: str | None,
        camvid: str | os.PathLike | None,
    ) -> tuple[Scores, VFMSegForSemanticSegmentation, VFMSegImageProcessorMixin]:
        """Score the saved model and the references, say and write how they do; and what was saved, loaded."""
        settings, output, say = self.settings, self.output, self.say
        with self.timed("scoring"):
            model, processor = reload_model(output / "model", trained, rows[0]["image"])
            say(f"Saved to {output / 'model'}; the Auto classes and pipeline give the trained model's labels.")
        with self.timed("references"):
            references = self.fit_references(rows, processor)
        domains, details, shown = {}, {}, {}
        for domain, test in tests.items():
            with self.timed("scoring"):
                progress = partial(tqdm, desc=f"score {domain}", unit="image")
                scored = EvaluationImages(test, processor)
                domains[domain] = evaluate_domain(model, scored, domain, progress=progress)
                shown[domain] = predict_image(model, processor, test[0]["image"])
                self.write_panel(domain, shown[domain], test[0], model)
            with self.timed("references"):
                details[domain] = score_references(test, references) | domains[domain].scores
        self.write_overview(shown, np.array(test[0]["label"]), model)
        labelled = np.isin(
            np.arange(model.config.num_labels), np.concatenate([np.unique(row["label"]) for row in test])
        )
        scores = {
            domain: {method: group_means(of_method, labelled) for method, of_method in methods.items()}
            for domain, methods in details.items()
        }
        say("\n" + format_scores(scores) + "\n")
        for line in draw_conclusions(scores):
            say(line)
        refined = ", ".join(f"{name} {100 * domain.refined:.0f} %" for name, domain in domains.items())
        say(f"Windows refined: {refined}. Products of matrices are in {self.products}.")
        own_time = dict(self.seconds)
        parts = ", ".join(f"{part} {value:.0f} s" for part, value in own_time.items())
        since = " since the run went on" if checkpoint else ""
        say(f"{sum(own_time.values()):.0f} s{since}: {parts}.")
        photographs = self.score_camvid(camvid, model, processor, references) if camvid else {}
        time_taken = None if checkpoint else self.seconds
        write_results(
            output / "results.json",
            settings,
            scores,
            details,
            parameters,
            time_taken,
            self.origin,
            self.products,
            photographs,
        )
        say(f"Look at {output / 'domains.png'} and {output / 'panels'}; all figures are in {output / 'results.json'}.")
        return scores, model, processor

    def train(
        self, rows: Sequence[Row], checkpoint: str | None
    ) -> tuple[VFMSegForSemanticSegmentation, dict[str, int]]:
        """Train and save; the model with LoRA folded in, and how many weights it has and how many were trained."""
        trainer = make_trainer(rows, self.settings, self.output / "training", self.encoder)
        model = trainer.model
        parameters = {"all": model.num_parameters(), "trained": model.num_parameters(only_trainable=True)}
        if self.origin is None:
            self.say(
                f"Training {parameters['all'] / 1e6:.1f} million weights on {len(rows)} images of the domain "
                f"{SOURCE!r}. The encoder starts from random weights, so there is nothing to preserve and all of it "
                "trains; with a foundation model, only LoRA and the heads would."
            )
        else:
            self.say(
                f"Training LoRA and both heads, {parameters['trained'] / 1e6:.1f} of {parameters['all'] / 1e6:.1f} "
                f"million weights, on {len(rows)} images of the domain {SOURCE!r}. The encoder is frozen: "
                f"{self.origin['source']} (licence: {self.origin['licence']})."
            )
        if checkpoint:
            self.say(f"Going on from {checkpoint}.")
        # The fused kernel's backward pass is slow for few tokens on a CPU: with it a step takes half as long again.
        plain = self.encoder is not None and not get_encoder_family(model.config.backbone_config).fixed_attentions
        if plain:
            model.set_attn_implementation("eager")
        trainer.train(resume_from_checkpoint=checkpoint)
        if trainer.stopped_by:
            raise TrainingStopped(trainer.stopped_by)
        if self.encoder is not None:
            model.merge_and_unload()
        if plain:
            model.set_attn_implementation("sdpa")  # as the saved model is loaded
        trainer.save_model(str(self.output / "model"))
        model.config.class_weights = None  # they are those of these images, and not for whoever trains it further
        model.config.save_pretrained(self.output / "model")
        return model, parameters

    def fit_references(self, rows: Sequence[Row], processor: VFMSegImageProcessorMixin) -> dict[str, object]:
        """What sees no shapes, and the frozen foundation model with a linear head, all of the same images."""
        pairs = [(np.array(row["image"]), np.array(row["label"])) for row in rows]
        count = len(CITYSCAPES_ID2LABEL)
        references: dict[str, object] = {
            "position prior": PositionPrior([label for _, label in pairs], count),
            **{f"{steps}-step lookup": ColourLookup(pairs, count, steps) for steps in COLOUR_STEPS},
        }
        if self.encoder is not None:
            frozen = load_frozen(self.settings, self.encoder)
            progress = tqdm(rows, desc="features of the frozen encoder", unit="image")
            references[LINEAR] = LinearHead(frozen, processor, progress, self.settings.seed)
        return references

    def write_panel(self, name: str, prediction: Prediction, row: Row, model: VFMSegForSemanticSegmentation) -> None:
        panel = draw_panel(prediction, row["file_name"], model.config, truth=np.array(row["label"]))
        write_file(self.output / "panels" / f"{name}.png", encode_image(panel, "PNG"))

    def write_overview(
        self, shown: Mapping[str, Prediction], truth: np.ndarray, model: VFMSegForSemanticSegmentation
    ) -> None:
        columns = {f"{name} (source)" if name == SOURCE else name: prediction for name, prediction in shown.items()}
        overview = domains_image(
            {name: prediction.image for name, prediction in columns.items()},
            {name: prediction.labels for name, prediction in columns.items()},
            truth,
            model.config.id2label,
            "Trained on the first look of the street only; predictions under the images",
        )
        write_file(self.output / "domains.png", encode_image(overview, "PNG"))

    def score_camvid(
        self,
        folder: str | os.PathLike,
        model: VFMSegForSemanticSegmentation,
        processor: VFMSegImageProcessorMixin,
        references: Mapping[str, object],
    ) -> dict[str, dict[str, object]]:
        """Mean IoU over CamVid's 11 classes on as many frames of each set as there are test images, evenly spaced."""
        spec, results = f"camvid:{folder}", {}
        rule = describe_dataset(spec).evaluation
        for name, split in CAMVID.items():
            frames = open_dataset(spec, split)
            frames = frames.select(range(0, len(frames), max(1, len(frames) // self.settings.test_images)))
            with self.timed(name):
                progress = partial(tqdm, desc=f"score {name}", unit="image")
                domain = evaluate_domain(model, EvaluationImages(frames, processor, rule), name, progress=progress)
                scores = {stage: domain.scores[stage]["mean_iou"] for stage in STAGES}
                if LINEAR in references:
                    counts = count_pixels(list(frames), references[LINEAR])
                    scores = {LINEAR: iou_scores(rule.merge(counts))["mean_iou"], **scores}
                self.write_panel(
                    name.lower().replace(" ", "-"),
                    predict_image(model, processor, frames[0]["image"]),
                    frames[0],
                    model,
                )
            results[name] = {"images": len(frames), "classes": len(rule.names), "mean_iou": scores}
            told = ", ".join(f"{method} {100 * value:.1f}" for method, value in scores.items())
            self.say(f"{name}, {len(frames)} photographs, {len(rule.names)} classes, mean IoU in %: {told}.")
        return results

    def segment(
        self, images: Mapping[Path, str], model: VFMSegForSemanticSegmentation, processor: VFMSegImageProcessorMixin
    ) -> None:
        """The user's own images."""
        folder = self.output / PREDICTIONS
        reports = list(tqdm(predict_files(model, processor, images, folder), total=len(images), unit="image"))
        for report in reports:
            if report.error:
                self.say(f"failed: {report.path}: {report.error}")
        done = sum(report.error is None for report in reports)
        self.say(
            f"{done} of {len(images)} of your images are segmented: look at {folder / 'panels'} and "
            f"{folder / 'overlays'}."
        )

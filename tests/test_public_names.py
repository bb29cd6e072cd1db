# Copyright 2026 The vfmseg-hf authors. Licensed under the Apache License, Version 2.0.
"""Names that keep working: rooms as attributes of the package, and the old names of two of them."""

import json
import subprocess
import sys
from importlib import import_module

import pytest

import vfmseg_hf


ROOMS = ("training", "data", "evaluation", "prediction", "convert", "quickstart")
# Public in 0.1: where each is now, and under which name if it is another one.
OLD_NAMES = {
    "corpora": (
        "vfmseg_hf.data",
        {
            "CORPORA": "DATASETS",
            "Corpus": "NamedDataset",
            "CorpusInfo": "DatasetDescription",
            "corpus_info": "describe_dataset",
            "load_corpus": "open_dataset",
            **{
                name: name
                for name in ("ClassMap", "ClassMatch", "EvaluationGroups", "LabelMap", "classes_of")
                + ("count_class_pixels", "each_class", "match_classes")
            },
        },
    ),
    "metrics": (
        "vfmseg_hf.evaluation",
        {name: name for name in ("confusion_matrix", "iou_scores", "load_mean_iou", "mean_iou", "merge_classes")},
    ),
}


def in_new_process(code: str) -> dict:
    """What `code` prints as JSON in a Python that has imported nothing yet."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_rooms_are_attributes_and_come_when_asked_for():
    found = in_new_process(
        "import json, sys, vfmseg_hf\n"
        "before = [name for name in sys.modules if name.startswith('vfmseg_hf.')]\n"
        "listed = dir(vfmseg_hf)\n"
        f"names = {{room: getattr(vfmseg_hf, room).__name__ for room in {ROOMS}}}\n"
        "print(json.dumps({'before': before, 'listed': listed, 'names': names}))"
    )
    rooms = {name.split(".")[1] for name in found["before"]}
    assert rooms == {"methods", "model"}, "importing the package imports no other room than those of models"
    assert found["names"] == {room: f"vfmseg_hf.{room}" for room in ROOMS}
    assert {*ROOMS, *OLD_NAMES, "VFMSegConfig", "__version__"} <= set(found["listed"])


def test_other_attributes_are_refused_as_usual():
    assert not hasattr(vfmseg_hf, "no_such_room")
    with pytest.raises(AttributeError, match="module 'vfmseg_hf' has no attribute 'trainig'"):
        _ = vfmseg_hf.trainig


@pytest.mark.parametrize("old", OLD_NAMES)
def test_old_names_give_the_same_things_and_say_where_they_are(old):
    """Python shows the warning where the import is, if that is where it is told to come from."""
    new, names = OLD_NAMES[old]
    sys.modules.pop(f"vfmseg_hf.{old}", None)  # a module warns when it is first imported
    with pytest.warns(DeprecationWarning) as warnings:
        exec(compile(f"from vfmseg_hf.{old} import {next(iter(names))}", "own.py", "exec"), {})
    assert [(str(warning.message), warning.filename) for warning in warnings] == [
        (f"vfmseg_hf.{old} is now {new}; the old name will go.", "own.py")
    ]
    module = getattr(vfmseg_hf, old)
    assert sorted(module.__all__) == sorted(names)
    assert all(getattr(module, name) is getattr(import_module(new), now) for name, now in names.items())


# Names of 0.1 in rooms that have kept theirs.
RENAMED = {
    "evaluation": {
        "PictureCounts": "ImageCounts",
        "count_pictures": "count_images",
        "describe_corpus": "describe_domain",
    },
    "training": {
        "Draw": "CropRequest",
        "EvaluationPictures": "EvaluationImages",
        "TrainingPictures": "TrainingImages",
    },
    "prediction": {
        "PictureReport": "ImageReport",
        "PreparedPicture": "PreparedImage",
        "find_pictures": "find_images",
        "predict_picture": "predict_image",
        "predict_pictures": "predict_images",
        "prepare_picture": "prepare_image",
    },
}


@pytest.mark.parametrize(
    "room, old, new", [(room, old, new) for room, names in RENAMED.items() for old, new in names.items()]
)
def test_renamed_things_are_found_under_their_old_names(room, old, new):
    module = import_module(f"vfmseg_hf.{room}")
    found = {}
    with pytest.warns(DeprecationWarning) as warnings:
        exec(compile(f"from vfmseg_hf.{room} import {old}", "own.py", "exec"), found)
    assert found[old] is getattr(module, new) and {warning.filename for warning in warnings} == {"own.py"}
    assert str(warnings[0].message) == f"vfmseg_hf.{room}.{old} is now {new}; the old name will go."
    with pytest.raises(AttributeError, match=f"module 'vfmseg_hf.{room}' has no attribute 'no_such_thing'"):
        _ = module.no_such_thing
